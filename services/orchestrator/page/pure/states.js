// The states of a run.
const ENDED = new Set(["succeeded", "failed", "stopped", "cancelled"]);
export const isOver = (run) => ENDED.has(run.state);
export const isQueued = (run) => run.state === "queued";
export const GOING = ["running", "starting", "draining"];
/** Of a run's groups. */
export const LEDGER = ["issued", "generated", "scored", "kept", "batched", "trained", "filtered", "evaluated", "surplus", "stale", "failed"];

/** An alert that only says how the run gets on. */
export const isNotice = ({ kind, data }) => kind === "alert" && data.severity === "notice";
