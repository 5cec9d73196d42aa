// What a run has written for others: checkpoints, and exports of them for the Hugging Face libraries.
import { html, useEffect, useState } from "../view.js";
import { get, post, runPath } from "../ask/api.js";
import { usePoll } from "../ask/hooks.js";
import { bytes } from "../pure/words.js";
import { Empty, Failure, Loading, Table } from "../parts/common.js";
import { Dialog } from "../parts/dialog.js";

const EVERY_S = 10;
const SOON_S = 2;
const UNDER_WAY = ["queued", "running"];
const KINDS = { "as-base": "the base model's", bfloat16: "bfloat16", float16: "float16", float32: "float32", adapter: "the LoRA adapter alone" };
const STATES = { queued: "waits for another one", running: "is written", succeeded: "whole", failed: "failed" };

function Export({ path, step, onDone, onClose }) {
  const [kind, setKind] = useState("as-base");
  const send = async () => {
    await post(`${path}/export`, { step, ...(kind === "adapter" ? { adapter: true } : { dtype: kind }) });
    onDone();
  };
  return html`<${Dialog} title=${`Export step ${step}`} act="Export" onAct=${send} onClose=${onClose}>
    <p class="muted">A folder that <code>transformers</code>, SGLang and vLLM load. It is written beside the run, which goes on.</p>
    <label>Weights <select value=${kind} onChange=${(e) => setKind(e.target.value)}>${Object.entries(KINDS).map(([value, name]) => html`<option value=${value} selected=${value === kind}>${name}</option>`)}</select></label><//>`;
}

function Checkpoints({ checkpoints, mayRun, onExport }) {
  if (!checkpoints.length) return html`<${Empty}>No checkpoint is there yet.<//>`;
  return html`<${Table} name="Checkpoints"><thead><tr><th scope="col">Step</th><th scope="col">Size</th><th scope="col">State</th><th scope="col">Folder</th>${mayRun && html`<th scope="col"><span class="sr">What can be done</span></th>`}</tr></thead>
    <tbody>${checkpoints.map((one) => html`<tr key=${one.directory}><th scope="row">${one.step}</th><td>${bytes(one.size)}</td><td>${one.damage ? html`<span class="problem">${one.damage}</span>` : "whole"}</td><td class="folder"><code>${one.directory}</code></td>
      ${mayRun && html`<td>${!one.damage && html`<button aria-label=${`Export step ${one.step}`} onClick=${() => onExport(one.step)}>Export</button>`}</td>`}</tr>`)}</tbody><//>`;
}

const place = (file) => file.split("/").map(encodeURIComponent).join("/");

const Downloads = ({ path, one }) => html`<details><summary>${Object.keys(one.files).length} files</summary>
  <ul class="downloads">${Object.entries(one.files).map(([file, size]) => html`<li key=${file}><a href=${`${path}/exports/${encodeURIComponent(one.name)}/files/${place(file)}`} download=${file.split("/").at(-1)}>${file}</a> <span class="muted">${bytes(size)}</span></li>`)}</ul></details>`;

function Exports({ path, exports }) {
  if (!exports.length) return html`<${Empty}>Nothing is exported yet.<//>`;
  return html`<${Table} name="Exports"><thead><tr><th scope="col">Step</th><th scope="col">Weights</th><th scope="col">State</th><th scope="col">Size</th><th scope="col">Folder</th></tr></thead>
    <tbody>${exports.map((one) => html`<tr key=${one.name}><th scope="row">${one.step}</th><td>${KINDS[one.adapter ? "adapter" : one.dtype] || one.dtype}</td>
      <td>${STATES[one.state] || one.state}${one.problem && html`<p class="problem">${one.problem}</p>`}${one.warning && html`<p class="muted">${one.warning}</p>`}</td>
      <td>${bytes(one.size)}</td><td class="folder">${one.state === "succeeded" && html`<code>${one.directory}</code><${Downloads} path=${path} one=${one} />`}</td></tr>`)}</tbody><//>`;
}

export function Files({ id, live, mayRun }) {
  const path = runPath(id);
  const [step, setStep] = useState(null);
  const [busy, setBusy] = useState(false);
  const written = usePoll((signal) => get(`${path}/checkpoints`, {}, signal), live ? EVERY_S : 0, [id]);
  const made = usePoll((signal) => get(`${path}/exports`, {}, signal), busy ? SOON_S : live ? EVERY_S : 0, [id]);
  const exports = made.value ? made.value.exports : [];
  const underWay = exports.some((one) => UNDER_WAY.includes(one.state));
  useEffect(() => setBusy(underWay), [underWay]);
  if (!written.value) return written.error ? html`<${Failure} error=${written.error} />` : html`<${Loading} what="files" />`;
  return html`<h2>Checkpoints</h2><${Failure} error=${written.error} /><${Checkpoints} checkpoints=${written.value.checkpoints} mayRun=${mayRun} onExport=${setStep} />
    <h2>Exports</h2><${Failure} error=${made.error} /><${Exports} path=${path} exports=${exports} />
    ${step !== null && html`<${Export} key=${step} path=${path} step=${step} onDone=${made.again} onClose=${() => setStep(null)} />`}`;
}
