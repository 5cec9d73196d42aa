// One field of a spec: its name, what it means, its problems where it stands.
import { html } from "../view.js";
import { pieces, shown } from "../pure/words.js";
import { parse, written } from "../pure/schema.js";

const idOf = (path) => `field-${path.replaceAll(".", "-")}`;

function Input({ field, value, onChange, about, bad }) {
  const id = idOf(field.path);
  const shared = { id, "aria-describedby": about, "aria-invalid": bad ? "true" : null, required: field.required };
  const none = field.fallback === undefined ? "" : `default: ${shown(field.fallback)}`;
  if (field.kind === "boolean" || field.kind === "choice") {
    const choices = field.kind === "boolean" ? ["true", "false"] : field.choices;
    const now = written(value);
    return html`<select ...${shared} value=${now} onChange=${(e) => onChange(parse(field.kind, e.target.value))}>
      <option value="" selected=${now === ""}>${none || "choose"}</option>${choices.map((one) => html`<option value=${one} selected=${now === String(one)}>${one}</option>`)}</select>`;
  }
  const numeric = field.kind === "integer" || field.kind === "number";
  return html`<input ...${shared} type="text" inputmode=${numeric ? "decimal" : null} spellcheck=${false} autocomplete="off" placeholder=${none} value=${written(value)} onInput=${(e) => onChange(parse(field.kind, e.target.value))} />`;
}

export function Field({ field, value, problems, onChange }) {
  const about = `${idOf(field.path)}-about`;
  const bad = problems.length > 0;
  return html`<div class=${bad ? "field bad" : value === undefined ? "field" : "field set"}>
    <label for=${idOf(field.path)}>${field.name}${field.required && html`<span class="needed"> needed</span>`}</label>
    <${Input} field=${field} value=${value} onChange=${onChange} about=${about} bad=${bad} />
    <div id=${about}>${problems.map((one) => html`<p class="problem">${one.message}</p>`)}<p class="about">${pieces(field.about).map((text, index) => (index % 2 ? html`<code>${text}</code>` : text))}</p></div>
  </div>`;
}
