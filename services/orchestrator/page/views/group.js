// A group's story: what happened to it, who has it, its responses and verdicts.
import { html } from "../view.js";
import { get, post, runPath } from "../ask/api.js";
import { usePoll } from "../ask/hooks.js";
import { duration, moment, number } from "../pure/words.js";
import { Act, Failure, Loading, Table } from "../parts/common.js";
import { Verdict } from "../parts/response.js";

const OPEN = ["issued", "generated", "scored", "kept", "batched"];

const words = (one) => {
  if (one.what === "claimed") return `${one.successor} took it over from ${one.worker}, which was dead`;
  if (one.what === "handed_back") return `${one.worker} handed it back${one.engine_lost ? ", as its engine was lost" : ""}`;
  if (one.what === "refilled") return `response ${one.index} of ${one.worker} was lost and is generated again`;
  return one.what;
};

const Line = ({ one }) => html`<tr><th scope="row">${one.index}</th><td>${one.verdict ? html`<${Verdict} response=${one.verdict} />` : "not graded yet"}</td><td>${one.verdict ? one.verdict.reason : ""}</td>
  <td>${one.verdict && one.verdict.extracted ? html`<code><bdi>${one.verdict.extracted}</bdi></code>` : ""}</td><td>${one.verdict ? number(one.verdict.reward) : "–"}</td><td>${one.tokens}${one.truncated ? ", cut" : ""}</td><td>${one.version_min}${one.version_max > one.version_min ? `–${one.version_max}` : ""}</td><td>${one.generator}</td></tr>`;

export function Group({ id, group, live, mayRun }) {
  const path = `${runPath(id)}/groups/${encodeURIComponent(group)}`;
  const { value: found, error, again } = usePoll((signal) => get(path, {}, signal), live ? 3 : 0, [id, group]);
  const base = `#/runs/${encodeURIComponent(id)}/groups`;
  if (!found) return error ? html`<p><a href=${base}>← Groups</a></p><${Failure} error=${error} />` : html`<${Loading} what="the group" />`;
  const requeue = async () => {
    await post(`${path}/requeue`, {});
    again();
  };
  return html`<p><a href=${base}>← Groups</a></p>
    <h2>Group ${group} <span class="tag">${found.state}</span></h2>
    ${found.reason && html`<p>${found.reason}</p>`}
    ${found.failure && html`<div class="failure"><p><b>${found.failure.reason}</b>: ${found.failure.explanation}</p>${found.failure.detail && html`<p>${found.failure.detail}</p>`}
      ${found.requeued_as ? html`<p>Its prompt went out once more as <a href=${`${base}/${found.requeued_as}`}>${found.requeued_as}</a>.</p>` : live && mayRun && html`<${Act} label="Issue its prompt once more" onAct=${requeue} />`}</div>`}
    <pre class="prompt" dir="auto">${found.prompt}</pre>
    <p class="gold">expected <code><bdi>${found.gold}</bdi></code>, by ${found.grader}, row ${found.row_id}, epoch ${found.epoch}${found.evaluation ? `, of the evaluation ${found.evaluation}` : ""}${found.step !== null ? `, step ${found.step}` : ""}, issued at version ${found.issued_version}. <a href=${`#/runs/${encodeURIComponent(id)}/samples?row=${encodeURIComponent(found.row_id)}${found.evaluation ? `&set=${encodeURIComponent(found.evaluation)}` : ""}`}>This prompt over time</a></p>
    <div class="columns">
      <section><h3>What happened</h3><ol class="story">${found.happenings.map((one) => html`<li><time datetime=${one.at}>${moment(Date.parse(one.at))}</time> ${words(one)}</li>`)}</ol>
        ${found.happenings_lost > 0 && html`<p class="muted">${found.happenings_lost} more after the first are not kept.</p>`}</section>
      ${OPEN.includes(found.state) && html`<section><h3>Who has it</h3>${found.holders.length ? html`<ul>${found.holders.map((one) => html`<li>${one.stream}${one.response !== null ? `, response ${one.response}` : ""}: ${one.worker || "nobody yet"}${one.worker && !one.alive ? ", dead" : ""}, for ${duration(one.held_s)}</li>`)}</ul>` : html`<p class="muted">It waits for a batch.</p>`}</section>`}
    </div>
    <h3>Responses</h3>
    <${Table} name="Responses"><thead><tr><th scope="col">#</th><th scope="col">Verdict</th><th scope="col">Why</th><th scope="col">Answer</th><th scope="col">Reward</th><th scope="col">Tokens</th><th scope="col">Version</th><th scope="col">Generator</th></tr></thead>
      <tbody>${found.responses.map((one) => html`<${Line} key=${one.index} one=${one} />`)}</tbody><//>
    ${found.missing.length > 0 && html`<p class="muted">${found.missing.length} responses are still missing.</p>`}`;
}
