// A run's curves: read once, then only what is new.
import { useEffect, useRef, useState } from "../view.js";
import { get, runPath } from "./api.js";
import { passes, useSeen, useSession } from "./hooks.js";

const POINTS = 1500;
const EVERY_S = 2;

const joined = (before, more) => ({
  ...more,
  step: [...before.step, ...more.step],
  units: { ...before.units, ...more.units },
  columns: Object.fromEntries(
    [...new Set([...Object.keys(before.columns), ...Object.keys(more.columns)])].map((name) => [
      name,
      [...(before.columns[name] || before.step.map(() => null)), ...(more.columns[name] || more.step.map(() => null))],
    ]),
  ),
});

/** `step`: the run's last one; a smaller one than before means that it has gone back, and all is read again. */
export function useSeries(id, names, live, step) {
  const [series, setSeries] = useState(null);
  const [error, setError] = useState(null);
  const known = useRef(null);
  const seen = useSeen();
  const session = useSession();
  const wanted = names.join(",");
  const back = known.current !== null && step !== null && step < known.current.last_step;
  useEffect(() => {
    const abort = new AbortController();
    let timer = 0;
    if (back) known.current = null;
    if (!seen) return undefined;
    const turn = async () => {
      let unread = false;
      try {
        const before = known.current && known.current.step.length <= 2 * POINTS ? known.current : null;
        const query = { since_step: before ? before.last_step : 0, names: wanted, points: POINTS };
        const more = await get(`${runPath(id)}/metrics`, query, abort.signal);
        if (abort.signal.aborted) return;
        if (!before || more.step.length) {
          known.current = before ? joined(before, more) : more;
          setSeries(known.current);
        }
        setError(null);
      } catch (problem) {
        if (abort.signal.aborted) return;
        if (problem.status) setError(problem);
        unread = !known.current && passes(problem);
      }
      if ((live || unread) && !abort.signal.aborted) timer = setTimeout(turn, EVERY_S * 1000);
    };
    turn();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [id, wanted, live, back, seen, session]);
  return { series, error };
}

/** Mean of the values that are there; null where none is. */
export function mean(values) {
  const found = values.filter((value) => value !== null && value !== undefined);
  return found.length ? found.reduce((sum, value) => sum + value, 0) / found.length : null;
}

/** An exponential moving average without the bias of its beginning: `weight` of what was, 0 to 1. Gaps stay gaps. */
export function smoothed(values, weight) {
  let [sum, scale] = [0, 0];
  return values.map((value) => {
    if (value === null || value === undefined) return null;
    sum = weight * sum + (1 - weight) * value;
    scale = weight * scale + (1 - weight);
    return sum / scale;
  });
}

/** Where the steps of a series lie across: steps as they are, or seconds since the run began. */
export const places = (series, across) => (across === "time" ? series.columns.time_s || [] : series.step);

/** The same of points { step, … }, which may be of steps that are not in the series: as { x, … }. */
export function placed(points, series, across) {
  if (across !== "time") return points.map((point) => ({ ...point, x: point.step }));
  const times = places(series, across);
  return points.flatMap((point) => {
    const after = series.step.findIndex((step) => step >= point.step);
    if (after === -1) return times.length ? [{ ...point, x: times.at(-1) }] : [];
    const [before, from] = after ? [series.step[after - 1], times[after - 1]] : [0, 0];
    return [{ ...point, x: from + ((point.step - before) / (series.step[after] - before)) * (times[after] - from) }];
  });
}
