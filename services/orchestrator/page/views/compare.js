// Several runs, their curves over each other.
import { html, useEffect, useMemo, useRef, useState } from "../view.js";
import { get, runPath } from "../ask/api.js";
import { usePoll } from "../ask/hooks.js";
import { listRuns, useFound } from "../ask/run_list.js";
import { isOver } from "../pure/states.js";
import { Empty, Failure, Loading, State, Table } from "../parts/common.js";
import { Chart } from "../parts/chart.js";
import { Look, useLook } from "../parts/look.js";
import { CURVES, NAMES, evaluationPoints } from "../pure/curves.js";
import { placed, places } from "../ask/series.js";
import { readSpec } from "./spec.js";
import { shown } from "../pure/words.js";

const MOST = 6;
const POINTS = 800;
const LISTED = 200;

/** Of several lines the first is compared, and named. */
const titleOf = ({ title, names }) => (Object.keys(names).length > 1 ? `${title}: ${Object.values(names)[0]}` : title);

/** `before`: what is known of the run: nothing is asked anew of one that has ended, and never its spec. */
async function readRun(id, before, signal) {
  if (before && isOver(before.run)) return before;
  const [run, series, evaluations, spec] = await Promise.all([
    get(runPath(id), {}, signal),
    get(`${runPath(id)}/metrics`, { names: NAMES.join(","), points: POINTS }, signal),
    get(`${runPath(id)}/evaluations`, {}, signal),
    // Of a run of another release it may be one that this service cannot read.
    before ? before.spec : readSpec(id, signal).catch(() => ({ differences: [] })),
  ]);
  return { run, series, evaluations: evaluationPoints(evaluations.evaluations), spec };
}

function useCompared(ids) {
  const known = useRef(new Map());
  return usePoll(async (signal) => {
    const found = await Promise.all(ids.map((id) => readRun(id, known.current.get(id), signal)));
    known.current = new Map(found.map((one) => [one.run.id, one]));
    return found;
  }, 10, [ids.join()]);
}

function Choice({ ids }) {
  const { value: runs, error } = usePoll(listRuns, 0, []);
  const [chosen, setChosen] = useState(ids);
  const [words, setWords] = useState("");
  const found = useFound(runs, { state: "", words, labels: [] });
  useEffect(() => setChosen(ids), [ids.join()]);
  if (!runs) return error ? html`<${Failure} error=${error} />` : html`<${Loading} what="runs" />`;
  const choose = (id) => {
    const next = chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id].slice(-MOST);
    location.hash = `#/compare?ids=${next.map(encodeURIComponent).join(",")}`;
  };
  return html`<details class="choice" open=${ids.length < 2}><summary>Runs to compare (${chosen.length} of ${MOST} at most)</summary>
    <label class="sr" for="choice">Search runs</label><input id="choice" type="search" placeholder="Name, label, note" value=${words} onInput=${(e) => setWords(e.target.value)} />
    <ul>${found.slice(0, LISTED).map((run) => html`<li key=${run.id}><label class="check"><input type="checkbox" checked=${chosen.includes(run.id)} onChange=${() => choose(run.id)} /> ${run.id} <${State} state=${run.state} /></label></li>`)}</ul>
    ${found.length > LISTED && html`<p class="muted">${found.length - LISTED} older ones are not shown: narrow the search.</p>`}</details>`;
}

/** Fields that are not the same in all runs. */
function Fields({ runs }) {
  const values = runs.map((one) => new Map(one.spec.differences.map(({ field, value }) => [field, value])));
  const plain = new Map(runs.flatMap((one) => one.spec.differences.map((found) => [found.field, found.default])));
  const rows = [...plain.keys()].sort().map((field) => [field, values.map((map) => shown(map.has(field) ? map.get(field) : plain.get(field)))]);
  const different = rows.filter(([, found]) => new Set(found).size > 1);
  if (!different.length) return html`<p class="muted">Their specs are the same.</p>`;
  return html`<${Table} name="Fields that differ"><thead><tr><th scope="col">Field</th>${runs.map((one) => html`<th scope="col">${one.run.id}</th>`)}</tr></thead>
    <tbody>${different.map(([field, found]) => html`<tr key=${field}><th scope="row"><code>${field}</code></th>${found.map((text) => html`<td>${text}</td>`)}</tr>`)}</tbody><//>`;
}

/** A chart for each curve, then one for each set that was evaluated. */
function Charts({ runs, across, smoothing }) {
  const shared = (index) => ({ name: runs[index].run.id, quiet: true, colour: index });
  const curves = useMemo(() => CURVES.map((one) => ({ ...one, lines: runs.map(({ series }, index) => ({ ...shared(index), x: places(series, across), values: series.columns[Object.keys(one.names)[0]] || [] })) })), [runs, across]);
  const sets = useMemo(() => {
    const all = runs.flatMap(({ evaluations, series }, index) => evaluations.map(({ name, points }) => ({ ...shared(index), set: name, points: placed(points, series, across) })));
    return [...Map.groupBy(all, (one) => one.set)];
  }, [runs, across]);
  return html`<div class="charts">${curves.map((one) => html`<${Chart} key=${one.title} title=${titleOf(one)} unit=${one.unit} sync="compare" lead=${one.lead} across=${across} smoothing=${smoothing} lines=${one.lines} />`)}
    ${sets.map(([name, points]) => html`<${Chart} key=${name} title=${name} unit="share" sync="compare" across=${across} lines=${NO_LINES} evaluations=${points} />`)}</div>`;
}

const NO_LINES = [];

export function Compare({ ids }) {
  const wanted = ids.slice(0, MOST);
  const { value: runs, error } = useCompared(wanted);
  const [look, setLook] = useLook();
  return html`<h1>Compare</h1><${Choice} ids=${wanted} /><${Failure} error=${error} />
    ${wanted.length < 2 ? html`<${Empty}>Choose two runs or more.<//>` : !runs ? !error && html`<${Loading} what="curves" />` : html`
      <ul class="legend key">${runs.map(({ run }, index) => html`<li class=${`key-${index}`} key=${run.id}><i></i><a href=${`#/runs/${encodeURIComponent(run.id)}`}>${run.id}</a> <${State} state=${run.state} /></li>`)}</ul>
      <div class="head"><h2>Curves</h2><span class="grow"></span><${Look} look=${look} onChange=${setLook} /></div>
      <${Charts} runs=${runs} ...${look} />
      <h2>What differs in their specs</h2><${Fields} runs=${runs} />`}`;
}
