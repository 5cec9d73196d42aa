// A worker's log as it grows.
import { useEffect, useRef, useState } from "../view.js";
import { runPath, stream } from "./api.js";
import { useSeen, useSession } from "./hooks.js";
import { MOST, appended, unknown } from "../pure/log_lines.js";

/** Known ones, too, are at most so many: see `unknown`. */
const LINES = 2000;
const TOGETHER_MS = 200;
const AGAIN_MS = 2000;

/** { chunks, waiting, error, read }: of the log's end and of what comes. While not `following` new lines wait, at most as many as are
 * kept; `waiting` says how many there are. After a break, or once the page is seen again, it goes on behind the last line. */
export function useTail(id, worker, live, following) {
  const [state, setState] = useState({ chunks: [], waiting: 0, error: null, read: false });
  const seen = useSeen();
  const session = useSession();
  const log = useRef({ key: "", texts: [], waiting: [] });
  const follows = useRef(following);
  follows.current = following;
  const show = () => {
    const { waiting } = log.current;
    if (!follows.current) return setState((before) => ({ ...before, waiting: waiting.length, read: true }));
    log.current.waiting = [];
    return setState((before) => ({ chunks: appended(before.chunks, waiting), waiting: 0, error: null, read: true }));
  };
  useEffect(() => {
    if (following) show();
  }, [following]);
  useEffect(() => {
    const key = `${id}/${worker}`;
    if (log.current.key !== key) {
      log.current = { key, texts: [], waiting: [] };
      setState({ chunks: [], waiting: 0, error: null, read: false });
    }
    if (!worker || !seen) return undefined;
    const abort = new AbortController();
    let timer = 0;
    const take = (lines) => {
      const kept = log.current;
      kept.texts = [...kept.texts, ...lines].slice(-LINES);
      kept.waiting = [...kept.waiting, ...lines].slice(-MOST);
      timer ||= setTimeout(() => {
        timer = 0;
        show();
      }, TOGETHER_MS);
    };
    const read = async () => {
      const known = log.current.texts;
      let rest = "";
      // What is known comes once more, in the first pieces: it is left out once they are all there.
      let first = known.length ? [] : null;
      let settling = 0;
      const settle = () => {
        clearTimeout(settling);
        if (first) take(unknown(known, first));
        first = null;
      };
      try {
        await stream(`${runPath(id)}/logs/${encodeURIComponent(worker)}`, { lines: LINES, follow: live }, (text) => {
          const lines = (rest + text).split("\n");
          rest = lines.pop();
          if (!first) return take(lines);
          settling ||= setTimeout(settle, TOGETHER_MS);
          return first.push(...lines);
        }, abort.signal);
        settle();
        take(rest ? [rest] : []);
      } catch (error) {
        clearTimeout(settling);
        if (abort.signal.aborted) return;
        settle();
        if (error.status) setState((before) => ({ ...before, error, read: true }));
      }
      if (live && !abort.signal.aborted) setTimeout(() => !abort.signal.aborted && read(), AGAIN_MS);
    };
    read();
    return () => {
      abort.abort();
      clearTimeout(timer);
      if (timer) show();
    };
  }, [id, worker, live, seen, session]);
  return state;
}
