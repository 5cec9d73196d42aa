// The logs of the run's workers.
import { html, useEffect, useMemo, useRef, useState } from "../view.js";
import { get, runPath } from "../ask/api.js";
import { usePoll } from "../ask/hooks.js";
import { setQuery } from "../route.js";
import { useTail } from "../ask/tail.js";
import { MOST } from "../pure/log_lines.js";
import { count } from "../pure/words.js";
import { Empty, Failure, Loading } from "../parts/common.js";

const NEAR_PX = 40;
const LEVELS = { "": "All lines", warning: "Warnings and errors", error: "Errors" };
const MARKS = { error: "✕ ", warning: "! " };

const fits = (line, words, level) => (!level || line.level === "error" || line.level === level) && (!words || line.text.toLowerCase().includes(words));

/** Drawn again only where its lines or what is looked for are others. */
const Chunk = ({ lines, words, level }) =>
  useMemo(() => html`${lines.filter((line) => fits(line, words, level)).map((line) => html`<span class=${line.level || null}>${MARKS[line.level] && html`<span class="mark">${MARKS[line.level]}</span>`}${`${line.text}\n`}</span>`)}`, [lines, words, level]);

/** Scrolled to its end while it follows; whoever scrolls up stops that. */
function Lines({ name, tail, words, level, following, onFollow }) {
  const box = useRef(null);
  const bottom = () => box.current.scrollHeight - box.current.scrollTop - box.current.clientHeight < NEAR_PX;
  useEffect(() => {
    if (following) box.current.scrollTop = box.current.scrollHeight;
  }, [tail.chunks, following, words, level]);
  const found = useMemo(() => tail.chunks.reduce((sum, chunk) => sum + chunk.lines.filter((line) => fits(line, words, level)).length, 0), [tail.chunks, words, level]);
  const all = tail.chunks.reduce((sum, chunk) => sum + chunk.lines.length, 0);
  return html`<pre class="log" ref=${box} tabindex="0" aria-label=${`Log of ${name}`} onScroll=${() => following && !bottom() && onFollow(false)}>${tail.chunks.map((chunk) => html`<${Chunk} key=${chunk.first} lines=${chunk.lines} words=${words} level=${level} />`)}${found === 0 && tail.read && "(nothing)"}</pre>
    <p class="muted">${words || level ? `${count(found)} of ${count(all)} lines fit.` : `${count(all)} lines.`} ${all >= MOST && `Older ones are in logs/${name}.log of the run's folder.`}</p>`;
}

export function Logs({ id, live, query }) {
  const { value, error } = usePoll((signal) => get(`${runPath(id)}/logs`, {}, signal), live ? 15 : 0, [id]);
  const [following, setFollowing] = useState(true);
  const [words, level] = [query.get("q") || "", query.get("level") || ""];
  const names = value ? value.workers : [];
  const chosen = query.get("worker") || names.find((name) => name.startsWith("learner")) || names[0] || "";
  const tail = useTail(id, value ? chosen : "", live, following);
  if (!value) return error ? html`<${Failure} error=${error} />` : html`<${Loading} what="logs" />`;
  if (!names.length) return html`<${Empty}>No worker has written a log yet.<//>`;
  return html`
    <div class="filters">
      <label>Worker <select value=${chosen} onChange=${(e) => setQuery({ worker: e.target.value })}>${names.map((name) => html`<option value=${name} selected=${name === chosen}>${name}</option>`)}</select></label>
      <label>Search <input type="search" value=${words} onInput=${(e) => setQuery({ q: e.target.value })} /></label>
      <label>Level <select value=${level} onChange=${(e) => setQuery({ level: e.target.value })}>${Object.entries(LEVELS).map(([value, name]) => html`<option value=${value} selected=${value === level}>${name}</option>`)}</select></label>
      ${live && html`<button aria-pressed=${!following} onClick=${() => setFollowing(!following)}>${following ? "Pause" : tail.waiting ? `Follow (${count(tail.waiting)} new)` : "Follow"}</button>`}
    </div>
    <${Failure} error=${tail.error} />
    ${tail.read || tail.error ? html`<${Lines} name=${chosen} tail=${tail} words=${words.toLowerCase()} level=${level} following=${following} onFollow=${setFollowing} />` : html`<${Loading} what="the log" />`}`;
}
