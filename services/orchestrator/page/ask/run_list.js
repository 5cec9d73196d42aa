// The list of runs: read whole at first and every half minute, between that only what can have changed.
import { useMemo, useRef } from "../view.js";
import { get } from "./api.js";
import { usePoll } from "./hooks.js";
import { GOING } from "../pure/states.js";

const EVERY_S = 3;
const WHOLE_MS = 30_000;
const PAGE = 1000;
const NEWEST = 50;

/** The newest first. */
export async function listRuns(signal, query = {}) {
  const runs = [];
  let cursor = "";
  do {
    const page = await get("/v1/runs", { newest_first: true, limit: PAGE, cursor, ...query }, signal);
    runs.push(...page.runs);
    cursor = page.next;
  } while (cursor);
  return runs;
}

const changes = (run) => GOING.includes(run.state) || run.state === "queued";

/** Runs that are known, with what is newer: those that have come go first, the others keep their places. Null where one that
 * went on is not among the newer ones any more: only the whole list says what became of it. */
export function renewed(known, newer) {
  const fresh = new Map(newer.map((run) => [run.id, run]));
  if (known.some((run) => changes(run) && !fresh.has(run.id))) return null;
  const ids = new Set(known.map((run) => run.id));
  return [...[...fresh.values()].filter((run) => !ids.has(run.id)), ...known.map((run) => fresh.get(run.id) || run)];
}

async function readNewer(known, signal) {
  const states = [...new Set(known.filter(changes).map((run) => run.state))];
  const [newest, going] = await Promise.all([
    get("/v1/runs", { newest_first: true, limit: NEWEST }, signal).then((page) => page.runs),
    states.length ? listRuns(signal, { state: states.includes("queued") ? [...GOING, "queued"] : GOING }) : [],
  ]);
  return renewed(known, [...newest, ...going]);
}

/** { value: the runs, the newest first, null at first; error; again }. */
export function useRuns() {
  const known = useRef({ runs: null, at: 0 });
  const ask = async (signal) => {
    const { runs, at } = known.current;
    const few = runs === null || runs.length <= NEWEST || Date.now() - at > WHOLE_MS;
    const newer = few ? null : await readNewer(runs, signal);
    known.current = newer ? { runs: newer, at } : { runs: await listRuns(signal), at: Date.now() };
    return known.current.runs;
  };
  return usePoll(ask, EVERY_S, []);
}

/** Those that fit: `state` one of them or "going", `words` in id, message, notes or labels, each of `labels` as key=value. */
export function useFound(runs, { state, words, labels }) {
  return useMemo(() => (runs || []).filter((run) => fits(run, { state, words: words.toLowerCase(), labels })), [runs, state, words, labels.join("\n")]);
}

export const labelsOf = (run) => Object.entries(run.labels || {}).map(([key, value]) => `${key}=${value}`);

function fits(run, { state, words, labels }) {
  if (state && (state === "going" ? !GOING.includes(run.state) : run.state !== state)) return false;
  const own = labelsOf(run);
  if (!labels.every((label) => own.includes(label))) return false;
  return !words || [run.id, run.message, run.notes || "", ...own].some((text) => text.toLowerCase().includes(words));
}
