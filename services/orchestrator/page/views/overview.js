// What a person wants to know first, the pipeline as it stands, and the curves.
import { html, useMemo } from "../view.js";
import { get, runPath } from "../ask/api.js";
import { usePoll, useTick } from "../ask/hooks.js";
import { ago, count, duration, eventTime, number } from "../pure/words.js";
import { Failure, Loading, Table } from "../parts/common.js";
import { Chart } from "../parts/chart.js";
import { Flow } from "../parts/flow.js";
import { Look, useLook } from "../parts/look.js";
import { CURVES, NAMES, evaluationPoints } from "../pure/curves.js";
import { mean, placed, places, useSeries } from "../ask/series.js";
import { LEDGER, isNotice } from "../pure/states.js";
import { MoreCurves } from "./more_curves.js";

const SOME = 5;

const Tile = ({ label, value, note, tone = "" }) => html`<div class="tile ${tone}"><dt>${label}</dt><dd><span class="value">${value}</span><span class="note">${note}</span></dd></div>`;

const ends = (values) => {
  const found = values.filter((value) => value !== null);
  return { first: mean(found.slice(0, SOME)), last: mean(found.slice(-SOME)) };
};

function Going({ run, series, lastEvent, live }) {
  useTick();
  const last = lastEvent ? eventTime(lastEvent.id) : null;
  const rest = run.steps_total - run.step;
  const steps = ((series && series.columns.step_s) || []).slice(-20);
  const eta = live && mean(steps) !== null && rest > 0 ? `about ${duration(mean(steps) * rest)} left` : "";
  const since = live && last ? `last step ${ago(last)}` : "";
  return html`<${Tile} label="Is it going on?" value=${live ? `step ${count(run.step)} of ${count(run.steps_total)}` : run.state} tone=${run.state === "failed" ? "bad" : ""}
    note=${live ? [since, eta].filter(Boolean).join(", ") || run.state : `after ${count(run.step)} of ${count(run.steps_total)} steps`} />`;
}

function Learning({ series, evaluations }) {
  const values = (series && series.columns.accuracy_mean) || [];
  const { first, last } = ends(values);
  const newest = evaluations.at(-1);
  const point = newest && newest.points.at(-1);
  const note = point ? `${newest.name} ${number(point.value, "share")} [${number(point.low, "share")}, ${number(point.high, "share")}]` : values.length ? "accuracy, first to last five steps" : "no step yet";
  return html`<${Tile} label="Is it learning?" value=${first === null ? "–" : `${number(first, "share")} → ${number(last, "share")}`} note=${note} />`;
}

function Wrong({ run, alerts, id, live }) {
  const failed = run.ledger.failed || 0;
  const last = alerts.at(-1);
  const waits = last && last.data.kind === "waiting";
  const bad = alerts.filter((event) => !isNotice(event));
  const newest = bad.at(-1);
  if (run.state === "failed") return html`<${Tile} label="What went wrong?" value="it failed" tone="bad" note=${run.message} />`;
  if (!live) return html`<${Tile} label="What went wrong?" value=${run.state} note=${html`${run.message} <a href=${`#/runs/${encodeURIComponent(id)}/events`}>Its events</a>`} />`;
  const value = waits ? "it waits" : bad.length ? `${count(bad.length)} alert${bad.length > 1 ? "s" : ""}` : "nothing";
  const note = newest ? html`<a href=${`#/runs/${encodeURIComponent(id)}/events`}>${newest.data.message}</a>` : failed ? html`<a href=${`#/runs/${encodeURIComponent(id)}/groups?state=failed`}>${count(failed)} groups failed</a>` : "no alert in the last hour";
  return html`<${Tile} label="What went wrong?" value=${value} tone=${waits ? "bad" : bad.length ? "warn" : ""} note=${note} />`;
}

function Slow({ pipeline }) {
  const found = pipeline && pipeline.bottleneck;
  return html`<${Tile} label="What is slow?" value=${found ? found.stage : "–"} note=${found ? found.text : "no step was measured yet"} />`;
}

const Generators = ({ generators }) => html`<${Table} name="Generators">
  <thead><tr><th scope="col">Generator</th><th scope="col">State</th><th scope="col">Version</th><th scope="col">Requests</th><th scope="col">Tokens</th><th scope="col">Busy</th><th scope="col">GPUs</th></tr></thead>
  <tbody>${generators.map((one) => html`<tr key=${one.id}><th scope="row">${one.id}${one.evaluates && html` <span class="tag">evaluates</span>`}</th><td>${one.state}</td><td>${one.version ?? "–"}</td><td>${one.running}</td><td>${number(one.generated_tokens)}</td><td>${number(one.busy_share, "share")}</td><td>${one.devices.join(", ") || "none"}</td></tr>`)}</tbody><//>`;

const Ledger = ({ groups, id }) => html`<ul class="ledger" aria-label="Groups by state">
  ${LEDGER.map((state) => html`<li key=${state}><a href=${`#/runs/${encodeURIComponent(id)}/groups?state=${state}`}><b>${count(groups[state] || 0)}</b> ${state}</a></li>`)}</ul>`;

function Curves({ id, series, evaluations }) {
  const [look, setLook] = useLook();
  const { across, smoothing } = look;
  const lines = useMemo(() => CURVES.map((one) => Object.entries(one.names).map(([name, label]) => ({ name: label, x: places(series, across), values: series.columns[name] || [] }))), [series, across]);
  const dots = useMemo(() => evaluations.map((one) => ({ ...one, points: placed(one.points, series, across) })), [series, evaluations, across]);
  return html`<div class="head"><h2 id="curves">Curves</h2><span class="grow"></span><${Look} look=${look} onChange=${setLook} /></div>
    <div class="charts">${CURVES.map((one, index) => html`<${Chart} key=${one.title} title=${one.title} unit=${one.unit} sync=${id} lead=${one.lead} across=${across} smoothing=${smoothing} lines=${lines[index]} evaluations=${one.evaluations ? dots : undefined} />`)}</div>`;
}

export function Overview({ id, run, live, alerts, lastStep }) {
  const { series, error } = useSeries(id, NAMES, live, run.step);
  const answer = usePoll((signal) => get(`${runPath(id)}/evaluations`, {}, signal), live ? 10 : 0, [id]);
  const { value: pipeline, error: silent } = usePoll((signal) => get(`${runPath(id)}/pipeline`, {}, signal), live ? 2 : 0, [id]);
  const evaluations = useMemo(() => (answer.value ? evaluationPoints(answer.value.evaluations) : []), [answer.value]);
  const newest = (name) => (series && series.columns[name] ? mean(series.columns[name].slice(-10)) : null);
  const idle = { generator: newest("generator_idle"), learner: newest("learner_idle") };
  return html`
    <dl class="tiles">
      <${Going} run=${run} series=${series} lastEvent=${lastStep} live=${live} />
      <${Learning} series=${series} evaluations=${evaluations} />
      <${Slow} pipeline=${pipeline} />
      <${Wrong} run=${run} alerts=${alerts} id=${id} live=${live} />
    </dl>
    <${Failure} error=${error || silent} />
    ${pipeline && html`<section aria-labelledby="pipeline"><h2 id="pipeline">${pipeline.live ? "The pipeline as it stands" : "Its groups"}</h2>
      ${pipeline.live && html`<${Flow} pipeline=${pipeline} idle=${idle} pause=${newest("weight_pause_s")} /><${Generators} generators=${pipeline.generators} />`}
      <${Ledger} groups=${pipeline.groups} id=${id} /></section>`}
    <section aria-labelledby="curves">${series ? html`<${Curves} id=${id} series=${series} evaluations=${evaluations} />` : html`<h2 id="curves">Curves</h2>${!error && html`<${Loading} what="curves" />`}`}</section>
    <${MoreCurves} id=${id} live=${live} step=${run.step} />`;
}
