// A new run: from a preset or like another run, checked by the service while one types.
import { html, useEffect, useMemo, useRef, useState } from "../view.js";
import { get, on, post } from "../ask/api.js";
import { usePoll, useSession } from "../ask/hooks.js";
import { nested, sections } from "../pure/schema.js";
import { Failure, Loading } from "../parts/common.js";
import { Field } from "../parts/field.js";
import { Remarks, changedLabels } from "../parts/labels.js";
import { readSpec } from "./spec.js";

const PAUSE_MS = 250;
const FIRST = ["name", "model.path", "data.path", "data.max_prompt_tokens", "reward.grader", "training.steps", "training.prompts_per_step", "sampling.group_size", "sampling.max_response_tokens", "resources.generator.replicas"];

async function read(from, signal) {
  const [schema, { presets }, like] = await Promise.all([get("/v1/spec-schema", {}, signal), get("/v1/presets", {}, signal), from ? readSpec(from, signal) : null]);
  const values = like ? Object.fromEntries(like.differences.filter((one) => one.value !== null).map(({ field, value }) => [field, value])) : {};
  return { schema, presets, values: { ...values, "algorithm.preset": like && like.resolved ? like.resolved.json.algorithm.preset : "dapo" } };
}

/** What the service says of the spec, some moments after it was changed last. */
function useCheck(values) {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const session = useSession();
  const [returns, setReturns] = useState(0);
  useEffect(() => on("answers", () => setReturns((before) => before + 1)), []);
  useEffect(() => {
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      try {
        setFound(await post("/v1/specs/validate", { spec: nested(values) }, { signal: abort.signal }));
        setError(null);
      } catch (problem) {
        if (problem.status && problem.status !== 401) setError(problem);
      }
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [values, session, returns]);
  return { found, error };
}

/** The field where a problem is shown: its own, or the first of a section that is missing. Undefined: none has it. */
function placeOf({ field }, paths) {
  const own = paths.find((path) => field === path || field.startsWith(`${path}.`) || field.startsWith(`${path}[`));
  return own ?? (field ? paths.find((path) => path.startsWith(`${field}.`)) : undefined);
}

function Plan({ found }) {
  if (!found) return html`<p class="muted" role="status">Checking…</p>`;
  if (found.problems.length) return html`<p class="problem" role="status">${found.problems.length === 1 ? "One thing is" : `${found.problems.length} things are`} still wrong or missing.</p>`;
  return html`<p class="fine" role="status">It can start as it is.</p>
    ${found.warnings.map((one) => html`<p class="notice"><code>${one.field}</code> ${one.message}</p>`)}
    ${found.plan && html`<dl class="plan">${found.plan.rows.map((row) => html`<div><dt>${row.label}</dt><dd>${row.text}</dd></div>`)}</dl>`}`;
}

/** Nothing of a field that is missing until somebody has typed there. What is said of its section is for those who write YAML. */
function problemsOf({ path }, { values, touched, problems }) {
  const found = problems.get(path) || [];
  const missing = values[path] === undefined && found.every((one) => (one.given ?? null) === null);
  if (missing && !touched.has(path)) return [];
  return found.map((one) => (missing && one.field !== path ? { message: "It is needed." } : one));
}

function Section({ section, open, values, touched, problems, onChange }) {
  const set = section.fields.filter((field) => values[field.path] !== undefined).length;
  const found = new Map(section.fields.map((field) => [field.path, problemsOf(field, { values, touched, problems })]));
  const bad = section.fields.filter((field) => found.get(field.path).length > 0).length;
  const needed = section.fields.filter((field) => problems.has(field.path) && found.get(field.path).length === 0).length;
  return html`<details class="section card" open=${open || bad + needed > 0}>
    <summary><h2>${section.name.replaceAll("_", " ")}</h2>${set > 0 && html`<span class="tag">${set} set</span>`}${needed > 0 && html`<span class="tag">${needed} needed</span>`}${bad > 0 && html`<span class="tag bad">${bad} wrong</span>`}</summary>
    <div class="fields">${section.fields.map((field) => html`<${Field} key=${field.path} field=${field} value=${values[field.path]} problems=${found.get(field.path)} onChange=${(value) => onChange(field.path, value)} />`)}</div>
  </details>`;
}

function Form({ read: { schema, presets, values: begin } }) {
  const [values, setValues] = useState(begin);
  const [touched, setTouched] = useState(new Set());
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const [remarks, setRemarks] = useState({ labels: "", notes: "", priority: 0 });
  const key = useRef("");
  const parts = useMemo(() => {
    const all = sections(schema);
    const by = new Map(all.flatMap((section) => section.fields).map((field) => [field.path, { ...field, name: field.path }]));
    const first = { name: "essentials", fields: FIRST.filter((path) => by.has(path)).map((path) => by.get(path)) };
    const rest = all.map((section) => ({ ...section, name: section.name || "run", fields: section.fields.filter((field) => !FIRST.includes(field.path) && field.path !== "algorithm.preset") }));
    return [first, ...rest.filter((section) => section.fields.length)];
  }, [schema]);
  const { found, error: silent } = useCheck(values);
  const problems = found ? found.problems : [];
  const paths = parts.flatMap((section) => section.fields.map((field) => field.path));
  const placed = Map.groupBy(problems, (one) => placeOf(one, paths));
  const homeless = placed.get(undefined) || [];
  const change = (path, value) => {
    const next = { ...values };
    if (value === undefined) delete next[path];
    else next[path] = value;
    setValues(next);
    setTouched(new Set(touched).add(path));
    key.current = "";
  };
  const remark = (found) => {
    setRemarks(found);
    key.current = "";
  };
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    const said = { labels: changedLabels({}, remarks.labels), notes: remarks.notes, priority: Number(remarks.priority) };
    // The same spec sent twice, as after a break, is one run.
    key.current ||= Array.from(crypto.getRandomValues(new Uint32Array(4)), (one) => one.toString(16)).join("-");
    try {
      const run = await post("/v1/runs", { spec: nested(values), ...said }, { headers: { "Idempotency-Key": key.current } });
      location.hash = `#/runs/${encodeURIComponent(run.id)}`;
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  };
  return html`<form class="start" onSubmit=${send} novalidate>
    <fieldset class="presets"><legend>Preset</legend>${presets.map((preset) => html`<label class="preset" key=${preset.name}><input type="radio" name="preset" value=${preset.name} checked=${values["algorithm.preset"] === preset.name} onChange=${() => change("algorithm.preset", preset.name)} /><b>${preset.name}</b><span>${preset.description}</span></label>`)}</fieldset>
    <div class="sides"><div>
      ${homeless.map((one) => html`<p class="problem"><code>${one.field}</code> ${one.message}</p>`)}
      ${parts.map((section, index) => html`<${Section} key=${section.name} section=${section} open=${index === 0} values=${values} touched=${touched} problems=${placed} onChange=${change} />`)}
      <details class="section card"><summary><h2>Labels and notes</h2></summary><div class="remarks"><${Remarks} values=${remarks} onChange=${remark} /></div></details>
    </div>
    <aside class="card check-box" aria-label="What it would be"><h2>What it would be</h2><${Failure} error=${silent} /><${Failure} error=${error} />
      <button class="primary" disabled=${busy || problems.length > 0 || !found}>${busy ? "Starting…" : "Start the run"}</button><${Plan} found=${found} /></aside></div>
  </form>`;
}

export function Start({ from }) {
  const { value, error } = usePoll((signal) => read(from, signal), 0, [from]);
  return html`<h1>New run</h1>${from && html`<p class="muted">With the settings of ${from}.</p>`}
    ${value ? html`<${Form} key=${from} read=${value} />` : error ? html`<${Failure} error=${error} />` : html`<${Loading} what="the fields" />`}`;
}
