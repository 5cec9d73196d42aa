// The list of runs.
import { html, useState } from "../view.js";
import { day } from "../pure/words.js";
import { setQuery } from "../route.js";
import { GOING } from "../pure/states.js";
import { labelsOf, useFound, useRuns } from "../ask/run_list.js";
import { Empty, Failure, Loading, Progress, State } from "../parts/common.js";
import { Label } from "../parts/labels.js";

const STATES = { "": "All", going: "Going on", queued: "Queued", succeeded: "Succeeded", failed: "Failed", stopped: "Stopped", cancelled: "Cancelled" };
const PAGE = 100;

function Row({ run, chosen, onChoose, onLabel }) {
  const href = `#/runs/${encodeURIComponent(run.id)}`;
  const own = labelsOf(run);
  return html`<tr>
    <td class="choose"><input type="checkbox" aria-label=${`Compare ${run.id}`} checked=${chosen} onChange=${onChoose} /></td>
    <th scope="row"><a href=${href}>${run.id}</a>
      ${own.length > 0 && html`<span class="labels">${own.map((label) => html`<${Label} key=${label} label=${label} onClick=${() => onLabel(label)} />`)}</span>`}
      ${run.message && html`<p class="why">${run.message}</p>`}${run.notes && html`<p class="why" dir="auto">${run.notes}</p>`}</th>
    <td data-label="State"><${State} state=${run.state} />${run.queue_position ? html` <span class="muted">place ${run.queue_position}</span>` : null}</td>
    <td data-label="Steps" class="steps"><${Progress} step=${run.step} total=${run.steps_total} label=${`Steps of ${run.id}`} /><span class="figure">${run.step} / ${run.steps_total}</span></td>
    <td data-label="Created" class="when">${day(run.created_at)}</td>
  </tr>`;
}

function Filters({ words, state, labels }) {
  return html`<div class="filters" role="search">
    <label class="sr" for="words">Search runs</label>
    <input id="words" type="search" placeholder="Name, label, note, message" value=${words} onInput=${(e) => setQuery({ q: e.target.value })} />
    <div class="chips" role="group" aria-label="State">
      ${Object.entries(STATES).map(([value, name]) => html`<button aria-pressed=${value === state} onClick=${() => setQuery({ state: value })}>${name}</button>`)}
    </div>
    ${labels.map((label) => html`<${Label} key=${label} label=${label} chosen=${true} onClick=${() => setQuery({ label: labels.filter((one) => one !== label) })} />`)}
  </div>`;
}

export function Runs({ identity, query }) {
  const { value: runs, error } = useRuns();
  const [words, state, labels] = [query.get("q") || "", query.get("state") || "", query.getAll("label")];
  const [chosen, setChosen] = useState([]);
  const [most, setMost] = useState(PAGE);
  const found = useFound(runs, { state, words, labels });
  if (!runs) return error ? html`<${Failure} error=${error} />` : html`<${Loading} what="runs" />`;
  const choose = (id) => setChosen(chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id]);
  const count = (states) => runs.filter((run) => states.includes(run.state)).length;
  const queued = count(["queued"]);
  return html`
    <div class="head"><h1>Runs</h1><span class="muted">${count(GOING)} going on${queued > 0 && html`, <a href="#/machine">${queued} queued</a>`}, ${runs.length} in all, the newest first</span><span class="grow"></span>
      ${chosen.length > 1 && html`<a class="button primary" href=${`#/compare?ids=${chosen.map(encodeURIComponent).join(",")}`}>Compare ${chosen.length}</a>`}
    </div>
    <${Failure} error=${error} />
    <${Filters} words=${words} state=${state} labels=${labels} />
    <p class="sr" role="status">${found.length} of ${runs.length} runs</p>
    ${runs.length === 0
      ? html`<${Empty}>No run yet. ${identity && identity.scope !== "read" && html`<a href="#/start">Start one</a>`} or: <code>dapo runs create examples/reverse.yaml</code><//>`
      : found.length === 0
        ? html`<${Empty}>No run fits. <button class="quiet" onClick=${() => setQuery({ q: "", state: "", label: [] })}>Show all</button><//>`
        : html`<table class="runs"><caption class="sr">Runs, the newest first</caption>
            <thead><tr><th><span class="sr">Compare</span></th><th scope="col">Run</th><th scope="col">State</th><th scope="col">Steps</th><th scope="col">Created</th></tr></thead>
            <tbody>${found.slice(0, most).map((run) => html`<${Row} key=${run.id} run=${run} chosen=${chosen.includes(run.id)} onChoose=${() => choose(run.id)} onLabel=${(label) => setQuery({ label: [...new Set([...labels, label])] })} />`)}</tbody>
          </table>
          ${found.length > most && html`<p class="more"><button onClick=${() => setMost(most + PAGE)}>Show ${Math.min(PAGE, found.length - most)} more</button> <span class="muted">${most} of ${found.length} are shown.</span></p>`}`}`;
}
