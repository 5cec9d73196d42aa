// More or fewer generators and verifiers while a run goes on.
import { html, useState } from "../view.js";
import { get, patch, runPath } from "../ask/api.js";
import { Failure } from "./common.js";
import { Dialog } from "./dialog.js";

const Number = ({ label, value, onChange }) => html`<label>${label}<input type="number" min="1" max="999" required value=${value} onInput=${(e) => onChange(e.target.valueAsNumber)} /></label>`;

export function Scale({ id, onDone }) {
  const [wanted, setWanted] = useState(null);
  const [error, setError] = useState(null);
  const open = async () => {
    setError(null);
    try {
      const now = await get(`${runPath(id)}/pipeline`);
      const generators = now.generators.filter((one) => !one.evaluates).length || 1;
      setWanted({ generators, verifiers: now.verifiers ? now.verifiers.wanted.length : 1 });
    } catch (problem) {
      setError(problem);
    }
  };
  const send = async () => {
    await patch(runPath(id), wanted);
    onDone();
  };
  return html`<button onClick=${open}>Scale</button><${Failure} error=${error} />
    ${wanted && html`<${Dialog} title="Scale" act="Scale" onAct=${send} onClose=${() => setWanted(null)}>
      <${Number} label="Generators" value=${wanted.generators} onChange=${(generators) => setWanted({ ...wanted, generators })} />
      <${Number} label="Verifiers" value=${wanted.verifiers} onChange=${(verifiers) => setWanted({ ...wanted, verifiers })} /><//>`}`;
}
