// A run's place in the queue is raised or lowered by its priority.
import { html, useState } from "../view.js";
import { Failure } from "./common.js";

const MOST = 100;

/** `run`: its id; `onChange(priority)` may fail. */
export function Priority({ run, value, onChange }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const change = (by) => async () => {
    setBusy(true);
    setError(null);
    try {
      await onChange(value + by);
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  };
  return html`<span class="priority"><button aria-label=${`Lower the priority of ${run}`} disabled=${busy || value <= -MOST} onClick=${change(-1)}>−</button>
    <b>${value}</b><button aria-label=${`Raise the priority of ${run}`} disabled=${busy || value >= MOST} onClick=${change(1)}>+</button></span><${Failure} error=${error} />`;
}
