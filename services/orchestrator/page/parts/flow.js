// The pipeline as it stands, drawn as a flow: what lies on each stream, who works, and which stage is the slowest.
import { html, useEffect, useRef, useState } from "../view.js";
import { count, duration, number } from "../pure/words.js";

const WIDE = { width: 1160, height: 206, box: { width: 200, height: 118 }, places: [[4, 18], [322, 18], [640, 18], [956, 18]] };
const TALL = { width: 330, height: 752, box: { width: 260, height: 118 }, places: [[6, 26], [6, 226], [6, 426], [6, 626]] };
const NARROW = 760;
const STAGES = { generation: 1, grading: 2, training: 3, weights: "weights" };

const plural = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;

function boxes(pipeline, idle) {
  const { groups, generators, verifiers, learner } = pipeline;
  const training = generators.filter((one) => !one.evaluates);
  const ready = generators.filter((one) => one.state !== "starting" && one.state !== "stopped").length;
  const versions = [...new Set(training.map((one) => one.version).filter((version) => version !== null))].sort((a, b) => a - b);
  const served = versions.length ? `version ${versions.length > 1 ? `${versions[0]} … ${versions.at(-1)}` : versions[0]}` : "no weights yet";
  const running = generators.reduce((sum, one) => sum + one.running, 0);
  return [
    { title: "Orchestrator", lines: [plural((groups.issued || 0) + (groups.generated || 0) + (groups.scored || 0), "group") + " on the way", `${count(groups.kept || 0)} kept for a batch`, `${count(groups.filtered || 0)} filtered so far`] },
    { title: "Generators", lines: [`${ready} of ${generators.length} ready`, served, `${plural(running, "request")} running`, idle.generator === null ? "" : `idle ${number(idle.generator, "share")}`] },
    { title: "Verifiers", lines: [verifiers ? `${verifiers.alive.length} of ${verifiers.wanted.length} alive` : "", plural(groups.generated || 0, "group") + " to grade"] },
    learner
      ? { title: "Learner", lines: [learner.training ? `trains step ${learner.step}` : `waits to train step ${learner.step}`, `${learner.alive.length} of ${plural(learner.wanted.length, "rank")} alive`, idle.learner === null ? "" : `idle ${number(idle.learner, "share")}`] }
      : { title: "Learner", lines: ["none: no training"] },
  ];
}

function links(pipeline) {
  const stream = (name) => pipeline.streams.find((one) => one.name === name);
  const link = (name, word, found = stream(name)) => ({
    name,
    depth: found ? found.depth : 0,
    text: found ? plural(found.depth, word) : "",
    note: found && found.depth && found.oldest_s !== null ? `oldest ${duration(found.oldest_s)}` : "",
  });
  const scored = link("scored", "group");
  const batch = pipeline.groups.batched || 0;
  return [link("prompts", "group"), link("completions", "response"), { name: "scored", depth: scored.depth + batch, text: scored.text, note: batch ? `${batch} in a batch` : scored.note }];
}

const Box = ({ place: [x, y], size, box, slow }) => html`<g class=${slow ? "stage slow" : "stage"}>
  <rect x=${x} y=${y} width=${size.width} height=${size.height} rx="8" />
  <text class="title" x=${x + 14} y=${y + 26}>${box.title}</text>
  ${box.lines.filter(Boolean).map((line, index) => html`<text x=${x + 14} y=${y + 49 + 19 * index}>${line}</text>`)}
  ${slow && html`<g class="mark"><rect x=${x + size.width - 72} y=${y - 11} width="64" height="22" rx="11" /><text x=${x + size.width - 40} y=${y + 4}>slowest</text></g>`}
</g>`;

function Arrow({ layout, index, link }) {
  const [x, y] = layout.places[index];
  const [nextX, nextY] = layout.places[index + 1];
  const className = link.depth ? "link busy" : "link";
  if (layout === TALL) {
    const middle = x + layout.box.width / 2;
    const from = y + layout.box.height;
    return html`<g class=${className}><line x1=${middle} y1=${from + 3} x2=${middle} y2=${nextY - 9} marker-end="url(#tip)" />
      <text class="name" x=${middle + 14} y=${from + 25}>${link.name}</text><text x=${middle + 14} y=${from + 43}>${link.text}</text><text class="note" x=${middle + 14} y=${from + 60}>${link.note}</text></g>`;
  }
  const from = x + layout.box.width;
  const middle = (from + nextX) / 2;
  const height = y + layout.box.height / 2;
  return html`<g class="${className} middle"><line x1=${from + 3} y1=${height} x2=${nextX - 9} y2=${height} marker-end="url(#tip)" />
    <text class="name" x=${middle} y=${height - 10}>${link.name}</text><text x=${middle} y=${height + 21}>${link.text}</text><text class="note" x=${middle} y=${height + 38}>${link.note}</text></g>`;
}

function Weights({ layout, version, slow, pause }) {
  const [fromX, fromY] = layout.places[3];
  const [toX, toY] = layout.places[1];
  const { width, height } = layout.box;
  const words = `weights${version === null ? "" : `, version ${version}`}${pause === null ? "" : `, pause ${duration(pause)}`}`;
  if (layout === TALL) {
    const right = fromX + width;
    return html`<g class=${slow ? "link weights slow" : "link weights"}><path d=${`M${right + 3} ${fromY + 59}H${right + 40}V${toY + 59}H${right + 9}`} marker-end="url(#tip)" />
      <text x=${right + 56} y=${(fromY + toY) / 2 + 59} transform=${`rotate(90 ${right + 52} ${(fromY + toY) / 2 + 59})`} text-anchor="middle">${words}</text></g>`;
  }
  const below = fromY + height + 36;
  return html`<g class=${slow ? "link weights middle slow" : "link weights middle"}><path d=${`M${fromX + width / 2} ${fromY + height + 3}V${below}H${toX + width / 2}V${toY + height + 9}`} marker-end="url(#tip)" />
    <text x=${(fromX + toX + width) / 2} y=${below + 19}>${words}${slow ? " (slowest)" : ""}</text></g>`;
}

export function Flow({ pipeline, idle, pause }) {
  const frame = useRef(null);
  const [narrow, setNarrow] = useState(innerWidth < NARROW);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setNarrow(entry.contentRect.width < NARROW));
    watch.observe(frame.current);
    return () => watch.disconnect();
  }, []);
  const layout = narrow ? TALL : WIDE;
  const slow = pipeline.bottleneck ? STAGES[pipeline.bottleneck.stage] : null;
  const stages = boxes(pipeline, idle);
  const between = links(pipeline);
  const words = [...stages.map((box) => `${box.title}: ${box.lines.filter(Boolean).join(", ")}`), ...between.map((link) => `${link.name}: ${link.text}`)].join(". ");
  return html`<div class="flow" ref=${frame}>
    <svg viewBox=${`0 0 ${layout.width} ${layout.height}`} role="img" aria-label=${`The pipeline now. ${words}`}>
      <defs><marker id="tip" viewBox="0 0 8 8" refX="4" refY="4" markerUnits="userSpaceOnUse" markerWidth="11" markerHeight="11" orient="auto"><path d="M0 0L8 4L0 8z" /></marker></defs>
      <${Weights} layout=${layout} version=${pipeline.version} slow=${slow === "weights"} pause=${pause} />
      ${between.map((link, index) => html`<${Arrow} layout=${layout} index=${index} link=${link} />`)}
      ${stages.map((box, index) => html`<${Box} place=${layout.places[index]} size=${layout.box} box=${box} slow=${slow === index} />`)}
    </svg>
  </div>`;
}
