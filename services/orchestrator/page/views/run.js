// One run: its head, what can be done with it, and its parts.
import { html, useEffect, useMemo, useState } from "../view.js";
import { get, patch, post, remove, runPath } from "../ask/api.js";
import { useEvents } from "../ask/events.js";
import { usePoll } from "../ask/hooks.js";
import { isOver, isQueued } from "../pure/states.js";
import { day } from "../pure/words.js";
import { Act, Empty, Failure, Loading, Progress, State, Tabs } from "../parts/common.js";
import { Dialog } from "../parts/dialog.js";
import { About } from "../parts/labels.js";
import { Priority } from "../parts/priority.js";
import { later } from "../parts/later.js";
import { Scale } from "../parts/scale.js";
import { Overview } from "./overview.js";

const HOUR_MS = 3600 * 1000;
const ALERTS = 200;
/** The curves are asked for first. */
const WAIT_MS = 400;
const PARTS = { overview: "Overview", samples: "Samples", groups: "Groups", events: "Events", logs: "Logs", files: "Files", spec: "Spec" };
const Group = later("Group", () => import("./group.js"));
const VIEWS = {
  samples: later("Samples", () => import("./samples.js")),
  groups: later("Groups", () => import("./groups.js")),
  events: later("Events", () => import("./events.js")),
  logs: later("Logs", () => import("./logs.js")),
  files: later("Files", () => import("./files.js")),
  spec: later("Spec", () => import("./spec.js")),
};

/** Alerts of the last hour and the newest step, as they come. */
function useNews(id, live, onState) {
  const [news, setNews] = useState({ alerts: [], lastStep: null });
  const after = useMemo(() => String(Date.now() - HOUR_MS), [id]);
  useEvents(live ? id : "", { after, live, wait_ms: WAIT_MS }, (events) => {
    const alerts = events.filter((event) => event.kind === "alert");
    const lastStep = events.findLast((event) => event.kind === "step");
    setNews((before) => ({ alerts: [...before.alerts, ...alerts].slice(-ALERTS), lastStep: lastStep || before.lastStep }));
    if (events.some((event) => event.kind === "state")) onState();
  });
  return news;
}

function Delete({ id }) {
  const [asking, setAsking] = useState(false);
  const [checkpoints, setCheckpoints] = useState(false);
  const send = async () => {
    await remove(runPath(id), { checkpoints });
    location.hash = "#/";
  };
  return html`<button onClick=${() => setAsking(true)}>Delete</button>
    ${asking && html`<${Dialog} title="Delete this run?" act="Delete" onAct=${send} onClose=${() => setAsking(false)}>
      <p>Its curves, samples, groups and logs go for good.</p>
      <label><input type="checkbox" checked=${checkpoints} onChange=${(event) => setCheckpoints(event.target.checked)} /> Its checkpoints and exports, too</label><//>`}`;
}

/** What a person may do with a run in the state that it has. */
function Acts({ run, again }) {
  const path = runPath(run.id);
  const ask = (what, body = {}) => async () => {
    await post(`${path}/${what}`, body);
    again();
  };
  return html`<div class="acts">
    ${isOver(run)
      ? html`<${Act} label="Resume" className="primary" onAct=${ask("resume")} /><${Delete} id=${run.id} />`
      : html`${!isQueued(run) && html`<${Scale} id=${run.id} onDone=${again} /><${Act} label="Stop" sure="Stop it, with a checkpoint?" onAct=${ask("stop")} />`}
          <${Act} label="Cancel" sure=${isQueued(run) ? "Take it out of the queue?" : "End it now, without a checkpoint?"} onAct=${ask("cancel")} />`}
    <a class="button" href=${`#/start?from=${encodeURIComponent(run.id)}`}>New run like it</a>
  </div>`;
}

function Waits({ run, mayRun, again }) {
  const change = async (priority) => {
    await patch(runPath(run.id), { priority });
    again();
  };
  return html`<div class="notice waits"><b>${run.queue_position ? `Place ${run.queue_position} in the queue` : "It waits for room"}</b><span>${run.message}</span>
    ${mayRun && run.priority !== undefined && html`<span>Priority <${Priority} run=${run.id} value=${run.priority} onChange=${change} /></span>`}<a href="#/machine">The machine and its queue</a></div>`;
}

export function Run({ id, tab, detail, query, identity }) {
  const [live, setLive] = useState(true);
  const { value: run, error, again } = usePoll((signal) => get(runPath(id), {}, signal), live ? 3 : 15, [id]);
  const over = run ? isOver(run) : false;
  const gone = error !== null && error.status === 404;
  useEffect(() => setLive(!over), [over]);
  if (gone) return html`<${Empty}>There is no run ${id}${run ? " any more: it was deleted" : ""}. <a href="#/">All runs</a><//>`;
  if (!run) return error ? html`<${Failure} error=${error} />` : html`<${Loading} what="the run" />`;
  const mayRun = identity && identity.scope !== "read";
  const base = `#/runs/${encodeURIComponent(id)}`;
  return html`
    <div class="head"><h1>${id}</h1><${State} state=${run.state} /><span class="grow"></span>${mayRun && html`<${Acts} run=${run} again=${again} />`}</div>
    <div class="under"><${Progress} step=${run.step} total=${run.steps_total} label="Steps" /><span class="figure">${run.step} of ${run.steps_total} steps</span><span class="muted">created ${day(run.created_at)}</span></div>
    <${About} run=${run} mayRun=${mayRun} onDone=${again} />
    ${isQueued(run) ? html`<${Waits} run=${run} mayRun=${mayRun} again=${again} />` : run.message && html`<p class=${run.state === "failed" ? "failure" : "notice"}>${run.message}</p>`}
    <${Failure} error=${error} />
    <${Tabs} current=${tab} items=${Object.entries(PARTS).map(([name, label]) => [name, label, name === "overview" ? base : `${base}/${name}`])} />
    <${Part} key=${tab} id=${id} run=${run} live=${!over} tab=${tab} detail=${detail} query=${query} mayRun=${mayRun} again=${again} />`;
}

/** Other parts ask for what they show; the news are of this one alone. */
function Newest(shared) {
  const news = useNews(shared.id, shared.live, shared.again);
  return html`<${Overview} ...${shared} ...${news} />`;
}

function Part({ tab, detail, ...shared }) {
  if (!VIEWS[tab] && isQueued(shared.run)) return html`<${Empty}>It has not begun.<//>`;
  const View = VIEWS[tab] || Newest;
  return tab === "groups" && detail ? html`<${Group} ...${shared} group=${detail} />` : html`<${View} ...${shared} />`;
}
