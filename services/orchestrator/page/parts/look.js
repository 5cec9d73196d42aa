// How curves are looked at: by step or time, smoothed or as they are. Kept for the next visit.
import { html, useState } from "../view.js";

const KEY = "dapo-look";
const FIRST = { across: "step", smoothing: 0 };

function stored() {
  try {
    const { across, smoothing } = { ...FIRST, ...JSON.parse(localStorage.getItem(KEY)) };
    return { across: across === "time" ? across : "step", smoothing: smoothing >= 0 && smoothing < 1 ? smoothing : 0 };
  } catch {
    return FIRST;
  }
}

export function useLook() {
  const [look, setLook] = useState(stored);
  const change = (changes) => {
    const next = { ...look, ...changes };
    localStorage.setItem(KEY, JSON.stringify(next));
    setLook(next);
  };
  return [look, change];
}

export const Look = ({ look, onChange }) => html`<div class="look">
  <label>By <select value=${look.across} onChange=${(e) => onChange({ across: e.target.value })}>${["step", "time"].map((one) => html`<option value=${one} selected=${one === look.across}>${one}</option>`)}</select></label>
  <label>Smoothing <input type="range" min="0" max="0.99" step="0.01" value=${look.smoothing} onInput=${(e) => onChange({ smoothing: e.target.valueAsNumber })} /><span class="figure">${look.smoothing.toFixed(2)}</span></label>
</div>`;
