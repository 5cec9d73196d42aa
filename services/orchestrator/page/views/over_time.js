// The answers to one prompt, step by step, and what differs from those before.
import { html, useState } from "../view.js";
import { get, runPath } from "../ask/api.js";
import { usePoll } from "../ask/hooks.js";
import { diff } from "../pure/diff.js";
import { Empty, Failure, Loading } from "../parts/common.js";
import { Response } from "../parts/response.js";

const MOST = 50;
const PAGES = 8;

/** All samples of the row, the oldest first; of a long run, those of its newest steps. */
async function readRow(id, row, set, signal) {
  const found = [];
  let cursor = "";
  for (let page = 0; page < PAGES && found.length < MOST; page++) {
    const answer = await get(`${runPath(id)}/samples`, { set, prompt: row, limit: MOST, cursor }, signal);
    found.push(...answer.samples.filter((sample) => sample.row_id === row));
    cursor = answer.cursor;
    if (!cursor) break;
  }
  return found.reverse();
}

/** The response that is most like the group: the first right one where most are right, else the first wrong one. */
const typical = (sample) => {
  const right = sample.responses.filter((one) => one.correct);
  const most = 2 * right.length > sample.responses.length;
  return sample.responses.find((one) => one.correct === most) || sample.responses[0];
};

export function OverTime({ id, row, set }) {
  const { value: samples, error } = usePoll((signal) => readRow(id, row, set, signal), 0, [id, row, set]);
  const [differences, setDifferences] = useState(true);
  const back = `#/runs/${encodeURIComponent(id)}/samples`;
  if (!samples) return error ? html`<${Failure} error=${error} />` : html`<${Loading} what="its samples" />`;
  const shown = samples.map(typical);
  return html`<p><a href=${back}>← All samples</a></p>
    <h2>Row ${row} over time</h2>
    ${samples.length === 0 ? html`<${Empty}>No sample of it is kept.<//>` : html`
      <pre class="prompt" dir="auto">${samples[0].prompt}</pre>
      <p class="gold">expected <code><bdi>${samples[0].gold}</bdi></code></p>
      <label class="check"><input type="checkbox" checked=${differences} onChange=${(e) => setDifferences(e.target.checked)} /> Show what differs from the step before</label>
      ${samples.map((sample, index) => html`<article class="card sample" key=${sample.step}>
        <header><b>Step ${sample.step}</b><span>${sample.responses.filter((one) => one.correct).length} of ${sample.responses.length} right</span><a href=${`#/runs/${encodeURIComponent(id)}/groups/${sample.group_id}`}>${sample.group_id}</a></header>
        <ol class="responses"><${Response} response=${shown[index]} pieces=${differences && index ? diff(shown[index - 1].text || "", shown[index].text || "") : null} /></ol>
      </article>`)}
      ${samples.length === 1 && html`<p class="muted">There is one sample of it only, so nothing to compare it with.</p>`}`}`;
}
