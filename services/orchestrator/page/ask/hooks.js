// Asking again and again while a view is there, and what the address says.
import { useEffect, useRef, useState } from "../view.js";
import { on } from "./api.js";

const AGAIN_S = 3;
/** Of a service that is away, or has too much to do: it may answer when it is asked once more. */
export const passes = (error) => !error.status || error.status === 429 || error.status >= 500;
/** Of what is not there, or for which one has to log in, nothing is asked until there is a reason. */
const isFinal = (error) => error.status === 401 || error.status === 404;

/** Calls `ask(signal)` at once and then every `seconds`; 0: until it has answered. Nothing is asked of a page that nobody
 * sees, or where one has to log in. That the service is silent is no error: the page says so at its top. */
export function usePoll(ask, seconds, keys) {
  const [state, setState] = useState({ value: null, error: null });
  const again = useRef(() => {});
  const asked = useRef("");
  useEffect(() => {
    const abort = new AbortController();
    let timer = 0;
    const turn = async () => {
      clearTimeout(timer);
      let pause = seconds;
      try {
        const value = await ask(abort.signal);
        if (!abort.signal.aborted) setState({ value, error: null });
      } catch (error) {
        if (abort.signal.aborted) return;
        if (error.status) setState((before) => ({ value: before.value, error }));
        pause = isFinal(error) ? 0 : passes(error) ? Math.max(seconds, AGAIN_S) : seconds;
      }
      if (pause && !abort.signal.aborted && !document.hidden) timer = setTimeout(turn, pause * 1000);
    };
    const seen = () => !document.hidden && seconds && turn();
    again.current = turn;
    // What is known stays where only the pace is another.
    if (asked.current !== keys.join("\n")) setState({ value: null, error: null });
    asked.current = keys.join("\n");
    turn();
    document.addEventListener("visibilitychange", seen);
    const leave = on("session", turn);
    return () => {
      abort.abort();
      leave();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [...keys, seconds]);
  return { ...state, again: () => again.current() };
}

/** A number that grows each second, for times that are told as "ago". */
export function useTick(seconds = 1) {
  const [tick, setTick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setTick((before) => before + 1), seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
  return tick;
}

/** Changes when light turns to dark or back. */
export function useTheme() {
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const changed = () => setTheme((before) => before + 1);
    media.addEventListener("change", changed);
    addEventListener("dapo-theme", changed);
    return () => {
      media.removeEventListener("change", changed);
      removeEventListener("dapo-theme", changed);
    };
  }, []);
  return theme;
}

/** Whether somebody sees the page. A browser keeps six connections to a service: pages in the background hold none open. */
export function useSeen() {
  const [seen, setSeen] = useState(!document.hidden);
  useEffect(() => {
    const changed = () => setSeen(!document.hidden);
    document.addEventListener("visibilitychange", changed);
    return () => document.removeEventListener("visibilitychange", changed);
  }, []);
  return seen;
}

/** Grows with each login: what ended for want of one begins anew. */
export function useSession() {
  const [session, setSession] = useState(0);
  useEffect(() => on("session", () => setSession((before) => before + 1)), []);
  return session;
}
