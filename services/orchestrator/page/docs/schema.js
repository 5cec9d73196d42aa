// What a schema of an OpenAPI document says, in words and tables.
import { html, useState } from "../view.js";

const nameOf = (schema) => schema && schema.$ref && schema.$ref.split("/").pop();

/** The schema that a reference stands for. */
const resolved = (document, schema) => (nameOf(schema) ? document.components.schemas[nameOf(schema)] : schema) || {};

/** E.g. `integer ≥ 1`, `list of string`, `RunView or null`. */
export function typeOf(schema) {
  if (!schema) return "anything";
  if (schema.$ref) return nameOf(schema);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  const any = schema.anyOf || schema.oneOf;
  if (any) return any.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.type === "object" && schema.additionalProperties) return `object of ${typeOf(schema.additionalProperties === true ? null : schema.additionalProperties)}`;
  const bounds = [schema.minimum !== undefined && `≥ ${schema.minimum}`, schema.maximum !== undefined && `≤ ${schema.maximum}`].filter(Boolean);
  return [schema.type || "anything", bounds.join(", ")].filter(Boolean).join(" ");
}

/** The schemas that it names, itself among them. */
export function named(schema) {
  if (!schema || typeof schema !== "object") return [];
  if (schema.$ref) return [nameOf(schema)];
  const parts = [...(schema.anyOf || schema.oneOf || []), schema.items, schema.additionalProperties];
  return [...new Set(parts.flatMap(named))];
}

/** Fields of an object, each with what it names, which is shown once it is asked for. */
export function Fields({ document, schema, name }) {
  const found = resolved(document, schema);
  if (!found.properties) return html`<p><code>${typeOf(found)}</code> ${found.description || ""}</p>`;
  const required = found.required || [];
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${`Fields of ${name}`}>
    <table class="small">
      <thead><tr><th scope="col">Field</th><th scope="col">Type</th><th scope="col">Meaning</th></tr></thead>
      <tbody>
        ${Object.entries(found.properties).map(
          ([field, one]) => html`<tr key=${field}>
            <th scope="row"><code>${field}</code>${required.includes(field) && html` <span class="tag">required</span>`}</th>
            <td><code>${typeOf(one)}</code></td>
            <td>${one.description || ""} ${named(one).map((part) => html`<${Part} key=${part} document=${document} name=${part} />`)}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

function Part({ document, name }) {
  const [open, setOpen] = useState(false);
  return html`<details onToggle=${(event) => { event.stopPropagation(); setOpen(event.currentTarget.open); }}>
    <summary>${name}</summary>
    ${open && html`<${Fields} document=${document} schema=${{ $ref: `#/components/schemas/${name}` }} name=${name} />`}
  </details>`;
}
