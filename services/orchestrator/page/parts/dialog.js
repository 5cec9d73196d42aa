// A dialog with a form: what it sends, what went wrong, Escape and Cancel.
import { html, useEffect, useRef, useState } from "../view.js";
import { Failure } from "./common.js";

export function Dialog({ title, act, onAct, onClose, children }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const dialog = useRef(null);
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await onAct();
      dialog.current.close();
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return html`<dialog ref=${dialog} aria-label=${title} onClose=${onClose}>
    <form onSubmit=${send}><h2>${title}</h2>${children}<${Failure} error=${error} />
      <div class="acts"><button type="button" onClick=${() => dialog.current.close()}>Cancel</button><button class="primary" disabled=${busy}>${busy ? `${act}…` : act}</button></div>
    </form></dialog>`;
}
