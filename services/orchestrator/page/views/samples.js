// What the model wrote, with verdicts; and the answers to one prompt over time.
import { html, useEffect, useState } from "../view.js";
import { get, runPath } from "../ask/api.js";
import { usePoll } from "../ask/hooks.js";
import { setQuery } from "../route.js";
import { Empty, Failure, Loading } from "../parts/common.js";
import { Response } from "../parts/response.js";
import { OverTime } from "./over_time.js";

const PAGE = 10;
const FEW = 4;
const FILTERS = ["set", "step", "verdict", "prompt"];
const ORDER = { "": "All", correct: "With right ones", wrong: "With wrong ones" };

function Sample({ id, sample, verdict }) {
  const [all, setAll] = useState(false);
  const wanted = sample.responses.filter((one) => !verdict || one.correct === (verdict === "correct"));
  const shown = all ? wanted : wanted.slice(0, FEW);
  const right = sample.responses.filter((one) => one.correct).length;
  const base = `#/runs/${encodeURIComponent(id)}`;
  const set = sample.set ? `&set=${encodeURIComponent(sample.set)}` : "";
  return html`<article class="card sample">
    <header><b>${right} of ${sample.responses.length} right</b><span class="tag">${sample.outcome}</span><span>step ${sample.step}</span>
      <a href=${`${base}/groups/${sample.group_id}`}>${sample.group_id}</a><span class="grow"></span>
      <a href=${`${base}/samples?row=${encodeURIComponent(sample.row_id)}${set}`}>This prompt over time</a></header>
    <pre class="prompt" dir="auto">${sample.prompt}</pre>
    <p class="gold">expected <code><bdi>${sample.gold}</bdi></code>, by ${sample.grader}, row ${sample.row_id}</p>
    <ol class="responses">${shown.map((one) => html`<${Response} key=${one.index} response=${one} />`)}</ol>
    ${wanted.length > FEW && html`<button class="quiet" aria-expanded=${all} onClick=${() => setAll(!all)}>${all ? "Fewer" : `${wanted.length - FEW} more responses`}</button>`}
  </article>`;
}

export function Samples({ id, query }) {
  const row = query.get("row");
  const filter = Object.fromEntries(FILTERS.map((name) => [name, query.get(name) || ""]));
  const [pages, setPages] = useState([]);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const { value: answer } = usePoll((signal) => get(`${runPath(id)}/evaluations`, {}, signal), 0, [id]);
  const sets = answer ? [...new Set(answer.evaluations.map((one) => one.set))] : [];
  const load = async (before, signal) => {
    setBusy(true);
    try {
      const found = await get(`${runPath(id)}/samples`, { ...filter, limit: PAGE, cursor: before.length ? before.at(-1).cursor : "" }, signal);
      setPages([...before, found]);
      setError(null);
    } catch (problem) {
      if (problem.name !== "AbortError") setError(problem);
    }
    setBusy(false);
  };
  useEffect(() => {
    if (row) return undefined;
    const abort = new AbortController();
    const timer = setTimeout(() => load([], abort.signal), filter.prompt || filter.step ? 250 : 0);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [id, row, ...Object.values(filter)]);
  if (row) return html`<${OverTime} id=${id} row=${row} set=${query.get("set") || ""} />`;
  const change = (name) => (event) => setQuery({ [name]: event.target.value });
  const samples = pages.flatMap((page) => page.samples);
  const more = pages.length > 0 && pages.at(-1).cursor;
  return html`
    <form class="filters" role="search" onSubmit=${(e) => e.preventDefault()}>
      <label>Prompt <input type="search" placeholder="words or a row id" value=${filter.prompt} onInput=${change("prompt")} /></label>
      <label>Step <input type="number" min="0" value=${filter.step} onInput=${change("step")} /></label>
      <label>Verdict <select value=${filter.verdict} onChange=${change("verdict")}>${Object.entries(ORDER).map(([value, name]) => html`<option value=${value} selected=${value === filter.verdict}>${name}</option>`)}</select></label>
      ${sets.length > 0 && html`<label>Of <select value=${filter.set} onChange=${change("set")}><option value="">training</option>${sets.map((set) => html`<option value=${set} selected=${set === filter.set}>${set}</option>`)}</select></label>`}
      <button type="button" onClick=${() => load([])}>Newest</button>
    </form>
    <${Failure} error=${error} />
    ${samples.map((sample) => html`<${Sample} key=${`${sample.group_id}-${sample.step}`} id=${id} sample=${sample} verdict=${filter.verdict} />`)}
    ${!pages.length && !error && html`<${Loading} what="samples" />`}
    ${pages.length > 0 && !samples.length && !more && html`<${Empty}>No sample fits. A run keeps <code>metrics.sample_groups_per_step</code> groups of each step.<//>`}
    ${more && html`<button disabled=${busy} onClick=${() => load(pages)}>${samples.length ? "Older ones" : "Search further back"}</button>`}`;
}
