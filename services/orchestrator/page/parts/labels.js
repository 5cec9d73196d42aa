// Labels, notes and priority of a run: shown, and changed in a dialog.
import { html, useState } from "../view.js";
import { patch, runPath } from "../ask/api.js";
import { labelsOf } from "../ask/run_list.js";
import { Dialog } from "./dialog.js";

/** A label one can look for; `chosen`: it is looked for. */
export const Label = ({ label, chosen = false, onClick }) => html`<button type="button" class="label" aria-pressed=${chosen} title=${chosen ? "Look for it no more" : "Look for runs with it"} onClick=${onClick}><bdi>${label}</bdi>${chosen && html`<span aria-hidden="true">✕</span>`}</button>`;

/** What was written, one key=value a line, as a change of `before`: null for a key that is gone. */
export function changedLabels(before, text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const now = Object.fromEntries(lines.map((line) => [line.split("=")[0].trim(), line.includes("=") ? line.slice(line.indexOf("=") + 1).trim() : ""]));
  const gone = Object.keys(before).filter((key) => !(key in now));
  const changed = Object.entries(now).filter(([key, value]) => before[key] !== value);
  return { ...Object.fromEntries(changed), ...Object.fromEntries(gone.map((key) => [key, null])) };
}

/** `values`: labels, one a line; notes; priority. */
export function Remarks({ onChange, values }) {
  const change = (name) => (event) => onChange({ ...values, [name]: event.target.value });
  return html`<label class="above"><span>Labels, one <code>key=value</code> a line</span><textarea rows="4" spellcheck=${false} value=${values.labels} onInput=${change("labels")}></textarea></label>
    <label class="above">Notes<textarea rows="5" dir="auto" value=${values.notes} onInput=${change("notes")}></textarea></label>
    <label>Priority <input type="number" min="-100" max="100" required value=${values.priority} onInput=${change("priority")} /></label>`;
}

function Edit({ run, onDone }) {
  const [values, setValues] = useState(null);
  const begin = () => setValues({ labels: labelsOf(run).join("\n"), notes: run.notes || "", priority: run.priority ?? 0 });
  const send = async () => {
    const priority = Number(values.priority);
    await patch(runPath(run.id), { labels: changedLabels(run.labels || {}, values.labels), notes: values.notes, ...(priority !== run.priority && { priority }) });
    onDone();
  };
  return html`<button class="quiet" onClick=${begin}>${labelsOf(run).length || run.notes ? "Edit" : "Add labels or notes"}</button>
    ${values && html`<${Dialog} title="Labels and notes" act="Save" onAct=${send} onClose=${() => setValues(null)}><${Remarks} values=${values} onChange=${setValues} /><//>`}`;
}

/** Of the run's page. Nothing where the service knows no labels. */
export function About({ run, mayRun, onDone }) {
  if (run.labels === undefined) return null;
  const own = labelsOf(run);
  const look = (label) => (location.hash = `#/?label=${encodeURIComponent(label)}`);
  return html`<div class="about-run">${own.length > 0 && html`<span class="labels">${own.map((label) => html`<${Label} key=${label} label=${label} onClick=${() => look(label)} />`)}</span>`}
    ${mayRun && html`<${Edit} run=${run} onDone=${onDone} />`}</div>
    ${run.notes && html`<p class="notes" dir="auto">${run.notes}</p>`}`;
}
