// One chart: lines by step or time and, as points with their intervals, evaluations.
import { html, useEffect, useMemo, useRef } from "../view.js";
import { useTheme } from "../ask/hooks.js";
import { duration, number } from "../pure/words.js";
import { smoothed } from "../ask/series.js";
import uPlot from "../vendor/uPlot.esm.js";

const HEIGHT = 168;
const NONE = [];
const isThere = (value) => value !== null && value !== undefined;
/** Lines are told apart by more than their colour. */
const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** x and a column for each line: they need not have the same x, as evaluations are of steps that were thinned out. */
function aligned(lines) {
  const x = [...new Set(lines.flatMap((line) => line.x))].filter(Number.isFinite).sort((a, b) => a - b);
  const at = new Map(x.map((place, index) => [place, index]));
  const column = (line) => {
    const found = new Array(x.length).fill(null);
    line.x.forEach((place, index) => at.has(place) && (found[at.get(place)] = line.values[index] ?? null));
    return found;
  };
  return [x, ...lines.map(column)];
}

function drawIntervals(plot, evaluations, first) {
  const { ctx } = plot;
  ctx.save();
  evaluations.forEach((one, index) => {
    ctx.strokeStyle = plot.series[first + index].stroke();
    ctx.lineWidth = devicePixelRatio;
    for (const point of one.points) {
      const x = Math.round(plot.valToPos(point.x, "x", true));
      ctx.beginPath();
      ctx.moveTo(x, plot.valToPos(point.high, "y", true));
      ctx.lineTo(x, plot.valToPos(point.low, "y", true));
      ctx.stroke();
    }
  });
  ctx.restore();
}

/** Where the scale begins and ends: single values far above all others, as of a first step that waits for its workers, are cut. */
function limitsOf(lines) {
  const found = lines.flatMap((line) => line.values.filter(isThere)).sort((a, b) => a - b);
  const usual = found[Math.floor(0.95 * (found.length - 1))];
  const low = Math.min(0, found[0] ?? 0);
  return usual > 0 && found.at(-1) > 5 * usual ? { low, top: 1.6 * usual, cut: found.at(-1) } : { low, top: Infinity, cut: null };
}

function ranged({ low, top }, from, to) {
  const [least, most] = [Math.min(low, from), Math.min(to, top)];
  return uPlot.rangeNum(least, least === 0 && most === 0 ? 1 : most, 0.08, true);
}

/** Seconds between two ticks. */
const PAUSES = [1, 2, 5, 10, 15, 30, ...[1, 2, 5, 10, 15, 30].map((minutes) => 60 * minutes), ...[1, 2, 3, 6, 12, 24, 48, 96, 240, 720, 2400].map((hours) => 3600 * hours)];

/** Of whole steps, or as times. */
const ticked = (across) => (_, ticks) => ticks.map((tick) => (across === "time" ? duration(tick) : Number.isInteger(tick) ? tick : ""));

/** `behind`: what the lines were before they were smoothed. */
function options(box, { lines, behind, evaluations, unit, sync, across }, tell, limitsNow) {
  const axis = { stroke: colour("--muted"), font: "11px system-ui, sans-serif", grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
  const paint = (line, index) => colour(`--line-${(line.colour ?? index) % 6}`);
  const series = lines.map((line, index) => ({
    stroke: paint(line, index),
    width: 1.6,
    dash: DASHES[(line.colour ?? index) % DASHES.length],
    spanGaps: true,
    points: { show: (plot, at) => plot.data[at].filter(isThere).length === 1 },
  }));
  const dots = evaluations.map((one, index) => ({
    stroke: paint(one, lines.length + index),
    width: 1,
    spanGaps: true,
    points: { show: true, size: 6, fill: colour("--surface") },
  }));
  const pale = behind.map((line, index) => ({ stroke: paint(line, index), alpha: 0.3, width: 1, spanGaps: true, points: { show: false } }));
  return {
    width: box.clientWidth,
    height: HEIGHT,
    padding: [8, 16, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: sync }, y: false, points: { size: 6 }, drag: { x: true, y: false } },
    scales: { x: { time: false }, y: { range: (_, from, to) => ranged(limitsNow(), from ?? 0, to ?? 1) } },
    axes: [{ ...axis, ...(across === "time" && { incrs: PAUSES }), size: 22, space: across === "time" ? 90 : 60, values: ticked(across) }, { ...axis, size: 52, space: 32, values: (_, ticks) => ticks.map((tick) => number(tick, unit)) }],
    series: [{}, ...series, ...dots, ...pale],
    hooks: { draw: [(plot) => drawIntervals(plot, evaluations, lines.length + 1)], setCursor: [tell] },
  };
}

const newest = (values) => values.findLast(isThere);

/** `lines`: name, x, values; where it is not their order, colour; `quiet`, where a key elsewhere names them. `evaluations`: name,
 * points, colour. `sync`: charts with one cursor. `across`: what x is, step or time. `smoothing`: 0 to 1. The same lists as before
 * are not drawn again. */
export function Chart({ title, unit, lines, evaluations = NONE, sync, across = "step", smoothing = 0, lead = false }) {
  const box = useRef(null);
  const values = useRef([]);
  const plot = useRef(null);
  const theme = useTheme();
  const { there, behind, data, limits } = useMemo(() => {
    const measured = lines.filter((line) => line.values.some(isThere));
    const drawn = smoothing ? measured.map((line) => ({ ...line, values: smoothed(line.values, smoothing) })) : measured;
    const pale = smoothing ? measured : NONE;
    const dots = evaluations.map(({ points }) => ({ x: points.map((one) => one.x), values: points.map((one) => one.value) }));
    return { there: drawn, behind: pale, data: aligned([...drawn, ...dots, ...pale]), limits: limitsOf(drawn) };
  }, [lines, evaluations, smoothing]);
  const shape = [...there.map((line) => line.name), "|", ...evaluations.map((one) => one.name), across, smoothing > 0].join();
  const ends = useRef(null);
  ends.current = limits;
  const tell = useRef(null);
  const at = useRef(null);
  // Written here and nowhere else: the cursor moves far more often than the curves change.
  tell.current = () => {
    const index = plot.current ? plot.current.cursor.idx : null;
    const [x, ...columns] = data;
    const pointed = index !== null && index !== undefined && x[index] !== undefined;
    values.current.forEach((node, place) => {
      if (node && columns[place]) node.textContent = number(pointed ? columns[place][index] : newest(columns[place]), unit);
    });
    if (at.current) at.current.textContent = !pointed ? "" : across === "time" ? `after ${duration(x[index])}` : `step ${x[index]}`;
  };

  useEffect(() => {
    if (!there.length && !evaluations.length) return undefined;
    const made = new uPlot(options(box.current, { lines: there, behind, evaluations, unit, sync, across }, () => tell.current(), () => ends.current), data, box.current);
    plot.current = made;
    const watch = new ResizeObserver(() => box.current && made.setSize({ width: box.current.clientWidth, height: HEIGHT }));
    watch.observe(box.current);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, theme, unit, evaluations.map((one) => one.points.length).join()]);

  useEffect(() => {
    if (plot.current) {
      // Whoever looks at some steps goes on to look at them.
      const { min, max } = plot.current.scales.x;
      const [before] = plot.current.data;
      plot.current.setData(data, before.length === 0 || (min <= before[0] && max >= before.at(-1)));
    }
    tell.current();
  }, [data]);

  const all = [...there, ...evaluations.map((one) => ({ ...one, values: one.points.map((point) => point.value) }))];
  const words = all.map((line) => `${line.name} ${number(newest(line.values), unit)}`).join(", ");
  return html`<figure class=${lead ? "chart lead" : "chart"}>
    <figcaption><h3>${title}</h3>${unit && unit !== "share" && html`<span class="unit">${unit}</span>`}${limits.cut !== null && html`<span class="unit">up to ${number(limits.cut, unit)}, cut</span>`}<span class="at" ref=${at}></span></figcaption>
    ${all.length === 0
      ? html`<p class="muted">Nothing measured yet.</p>`
      : html`<ul class="legend">${all.map((line, index) => html`<li class=${`key-${(line.colour ?? index) % 6}`}><i class=${index >= there.length ? "point" : ""}></i>${line.quiet ? html`<span class="sr">${line.name}</span>` : line.name} <b ref=${(node) => (values.current[index] = node)}></b></li>`)}</ul>
          <div class="plot" ref=${box} role="img" aria-label=${`${title} by ${across}: newest ${words}`}></div>`}
  </figure>`;
}
