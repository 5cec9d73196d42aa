// What the machine has, what of it is taken, and the runs that wait for room.
import { html } from "../view.js";
import { get, patch, post, runPath } from "../ask/api.js";
import { usePoll } from "../ask/hooks.js";
import { bytes, count } from "../pure/words.js";
import { Act, Empty, Failure, Loading, Table } from "../parts/common.js";
import { Priority } from "../parts/priority.js";

const EVERY_S = 3;

function Meter({ name, taken, total, words }) {
  if (!Number.isFinite(total)) return null;
  return html`<div class="tile"><dt>${name}</dt><dd><span class="value">${total === 0 ? "none" : `${words(Math.max(0, total - taken))} free`}</span>
    ${total > 0 && html`<progress class="bar" max="1" value=${Math.min(1, taken / total)} aria-label=${`${name} taken`}></progress><span class="note">${words(taken)} of ${words(total)} taken</span>`}</dd></div>`;
}

const Resource = ({ name, of, words = count }) => of && html`<${Meter} name=${name} taken=${of.total - of.free} total=${of.total} words=${words} />`;

function Waiting({ one, mayRun, again }) {
  const path = runPath(one.run_id);
  const act = (ask) => async () => {
    await ask();
    again();
  };
  return html`<tr><td>${one.position}</td><th scope="row"><a href=${`#/runs/${encodeURIComponent(one.run_id)}`}>${one.run_id}</a></th><td>${one.reason}</td>
    <td>${mayRun ? html`<${Priority} run=${one.run_id} value=${one.priority} onChange=${(priority) => act(() => patch(path, { priority }))()} />` : one.priority}</td>
    ${mayRun && html`<td><${Act} label="Take out" sure="Take it out of the queue?" onAct=${act(() => post(`${path}/cancel`, {}))} /></td>`}</tr>`;
}

export function Machine({ identity }) {
  const { value: machine, error, again } = usePoll((signal) => get("/v1/machine", {}, signal), EVERY_S, []);
  if (!machine) return html`<h1>Machine</h1>${!error ? html`<${Loading} what="the machine" />` : error.status === 404 ? html`<${Empty}>This service does not tell of its machine.<//>` : html`<${Failure} error=${error} />`}`;
  const mayRun = identity && identity.scope !== "read";
  const { runs, queue = [] } = machine;
  return html`<div class="head"><h1>Machine</h1></div><${Failure} error=${error} />
    <dl class="tiles">
      <${Resource} name="GPUs" of=${machine.gpus} /><${Resource} name="Cores" of=${machine.cores} /><${Resource} name="Memory" of=${machine.memory} words=${bytes} />
      ${runs && html`<div class="tile"><dt>Runs under way</dt><dd><span class="value">${runs.under_way}</span><span class="note">${runs.most ? `of ${runs.most} at most` : "as many as there is room for"}</span></dd></div>`}
    </dl>
    <h2>Queue</h2>
    ${queue.length === 0 ? html`<${Empty}>No run waits.<//>` : html`<${Table} name="The queue">
      <thead><tr><th scope="col">Place</th><th scope="col">Run</th><th scope="col">Waits because</th><th scope="col">Priority</th>${mayRun && html`<th scope="col"><span class="sr">What can be done</span></th>`}</tr></thead>
      <tbody>${queue.map((one) => html`<${Waiting} key=${one.run_id} one=${one} mayRun=${mayRun} again=${again} />`)}</tbody><//>`}`;
}
