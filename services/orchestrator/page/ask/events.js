// What happens to a run, as it comes.
import { useEffect, useRef } from "../view.js";
import { runPath } from "./api.js";
import { useSeen, useSession } from "./hooks.js";

const KINDS = ["state", "step", "service", "scaled", "evaluation", "alert"];
const TOGETHER_MS = 150;

/** Calls `take(events)` with those after `after`, some at a time, each { id, kind, data }. Goes on by itself after a break, and
 * once the page is seen again, behind the last one. `id`: empty, of none. `live`: whether more may come; `wait_ms`: before it begins. */
export function useEvents(id, { after, live, wait_ms = 0 }, take) {
  const seen = useSeen();
  const session = useSession();
  const last = useRef({ key: "", id: "" });
  const taker = useRef(take);
  taker.current = take;
  useEffect(() => {
    const key = `${id} ${after}`;
    if (last.current.key !== key) last.current = { key, id: after };
    if (!seen || !id) return undefined;
    let waiting = [];
    let timer = 0;
    let source = null;
    const show = () => {
      timer = 0;
      const found = waiting;
      waiting = [];
      taker.current(found);
    };
    const heard = (kind) => (message) => {
      last.current.id = message.lastEventId;
      waiting.push({ id: message.lastEventId, kind, data: JSON.parse(message.data) });
      timer ||= setTimeout(show, TOGETHER_MS);
    };
    const begin = setTimeout(() => {
      source = new EventSource(`${runPath(id)}/events?after=${encodeURIComponent(last.current.id)}`);
      KINDS.forEach((kind) => source.addEventListener(kind, heard(kind)));
      // The stream of a run that has ended ends, too: there is nothing to come back for.
      source.onerror = () => !live && source.close();
    }, wait_ms);
    return () => {
      clearTimeout(begin);
      if (timer) {
        clearTimeout(timer);
        show();
      }
      if (source) source.close();
    };
  }, [id, after, live, seen, session]);
}
