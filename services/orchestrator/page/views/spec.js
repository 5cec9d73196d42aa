// The resolved spec, and what of it differs from its preset.
import { html, useState } from "../view.js";
import { get, post, runPath } from "../ask/api.js";
import { usePoll } from "../ask/hooks.js";
import { shown } from "../pure/words.js";
import { Failure, Loading, Table } from "../parts/common.js";

export async function readSpec(id, signal) {
  const { yaml } = await get(`${runPath(id)}/spec`, {}, signal);
  return { yaml, ...(await post("/v1/specs/validate", { spec: yaml }, { signal })) };
}

export const Differences = ({ differences }) => html`<${Table} name="What differs from the preset">
  <thead><tr><th scope="col">Field</th><th scope="col">Under the preset</th><th scope="col">Here</th></tr></thead>
  <tbody>${differences.map((one) => html`<tr key=${one.field}><th scope="row"><code>${one.field}</code></th><td class="muted">${shown(one.default)}</td><td><b>${shown(one.value)}</b></td></tr>`)}</tbody><//>`;

export function Spec({ id }) {
  const { value: spec, error } = usePoll((signal) => readSpec(id, signal), 0, [id]);
  const [copied, setCopied] = useState(false);
  if (!spec) return error ? html`<${Failure} error=${error} />` : html`<${Loading} what="the spec" />`;
  const preset = spec.resolved ? spec.resolved.json.algorithm.preset : "";
  const copy = async () => {
    await navigator.clipboard.writeText(spec.yaml);
    setCopied(true);
  };
  return html`
    <h2>What differs from the preset ${preset}</h2><${Differences} differences=${spec.differences} />
    <div class="head"><h2>The resolved spec</h2><span class="grow"></span><button onClick=${copy}>${copied ? "Copied" : "Copy"}</button></div>
    <pre class="log" tabindex="0" aria-label="The resolved spec">${spec.yaml}</pre>`;
}
