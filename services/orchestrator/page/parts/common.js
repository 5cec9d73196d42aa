// Small parts that views share.
import { html, useEffect, useRef, useState } from "../view.js";

const MARKS = { running: "●", starting: "◌", draining: "◐", succeeded: "✓", failed: "✕", stopped: "■", queued: "○", cancelled: "□" };

/** A run's state: a sign, a word and a colour, none of them alone. */
export const State = ({ state }) => html`<span class="state ${state}"><span aria-hidden="true">${MARKS[state] || "?"}</span> ${state}</span>`;

export const Failure = ({ error }) => error && html`<p class="failure" role="alert">${error.message}</p>`;

export const Loading = ({ what }) => html`<p class="muted" role="status">Loading ${what}…</p>`;

export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

export function Progress({ step, total, label }) {
  const share = total ? Math.min(1, step / total) : 0;
  return html`<progress class="bar" max="1" value=${share} aria-label=${label}></progress>`;
}

/** A button that asks once more before it does what cannot be taken back, and shows what went wrong. */
export function Act({ label, sure, className = "", onAct }) {
  const [asking, setAsking] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const first = useRef(null);
  useEffect(() => {
    if (asking && first.current) first.current.focus();
  }, [asking]);
  const act = async () => {
    setBusy(true);
    setError(null);
    try {
      await onAct();
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
    setAsking(false);
  };
  if (asking && !busy)
    return html`<span class="asking" role="group" aria-label=${sure}>${sure}
      <button ref=${first} class="danger" onClick=${act}>${label}</button>
      <button onClick=${() => setAsking(false)}>Leave it</button></span>`;
  return html`<span class="act">
    <button class=${className} disabled=${busy} onClick=${() => (sure ? setAsking(true) : act())}>${busy ? `${label}…` : label}</button>
    <${Failure} error=${error} />
  </span>`;
}

/** Scrolls by itself where it is too wide, with the keyboard, too. */
export const Table = ({ name, children }) => html`<div class="scroll" tabindex="0" role="region" aria-label=${name}><table class="small">${children}</table></div>`;

export function Tabs({ items, current }) {
  return html`<nav class="tabs" aria-label="Parts of the run">
    ${items.map(([name, label, href]) => html`<a href=${href} aria-current=${name === current ? "page" : null}>${label}</a>`)}
  </nav>`;
}
