// All other metrics of a run, asked for once somebody wants them.
import { html, useMemo, useState } from "../view.js";
import { Chart } from "../parts/chart.js";
import { Empty, Failure, Loading } from "../parts/common.js";
import { NAMES } from "../pure/curves.js";
import { useSeries } from "../ask/series.js";

const KNOWN = new Set(NAMES);

function All({ id, live, step }) {
  const { series, error } = useSeries(id, [], live, step);
  const [words, setWords] = useState("");
  const lines = useMemo(() => series && Object.entries(series.columns).filter(([name, values]) => !KNOWN.has(name) && values.some((value) => value !== null)).map(([name, values]) => ({ name, lines: [{ name: "value", x: series.step, values }] })), [series]);
  if (!lines) return error ? html`<${Failure} error=${error} />` : html`<${Loading} what="metrics" />`;
  const found = lines.filter(({ name }) => name.includes(words.toLowerCase().trim().replaceAll(" ", "_")));
  return html`<div class="filters"><label>Search <input type="search" placeholder="part of a name" value=${words} onInput=${(e) => setWords(e.target.value)} /></label><span class="muted">${found.length} of ${lines.length}</span></div>
    ${found.length === 0 ? html`<${Empty}>No metric fits.<//>` : html`<div class="charts">${found.map((one) => html`<${Chart} key=${one.name} title=${one.name} unit=${series.units[one.name]} sync=${id} lines=${one.lines} />`)}</div>`}`;
}

export function MoreCurves(shared) {
  const [open, setOpen] = useState(false);
  return html`<details class="more-curves" onToggle=${(e) => setOpen(e.currentTarget.open)}><summary><h2>All other metrics</h2></summary>${open && html`<${All} ...${shared} />`}</details>`;
}
