// What happened, the newest first.
import { html, useEffect, useMemo, useState } from "../view.js";
import { useEvents } from "../ask/events.js";
import { setQuery } from "../route.js";
import { isNotice } from "../pure/states.js";
import { eventTime, moment, number } from "../pure/words.js";
import { Empty } from "../parts/common.js";

const HOUR_MS = 3600 * 1000;
const MOST = 2000;
const SHOWN = 300;
const KINDS = { "": "All but steps", alert: "Alerts", notice: "Notices", state: "States", service: "Workers", scaled: "Scaling", evaluation: "Evaluations", step: "Steps" };

const kindOf = (event) => (isNotice(event) ? "notice" : event.kind);

function words({ kind, data }) {
  switch (kind) {
    case "state":
      return `the run is ${data.state}${data.message ? `: ${data.message}` : ""}`;
    case "service":
      return `${data.worker_id} is ${data.state}${data.code !== undefined ? ` (exit code ${data.code})` : ""}${data.message ? `: ${data.message}` : ""}`;
    case "scaled":
      return `${data.role}s ${data.before} → ${data.after}: ${data.reason}`;
    case "evaluation":
      return data.state === "finished" ? `${data.set} at step ${data.step}: avg@${data.samples} ${data.avg_at_k ? number(data.avg_at_k.value, "share") : "–"}` : `evaluation at step ${data.step}: ${data.done} of ${data.problems} problems`;
    case "step":
      return `step ${data.step}: accuracy ${number(data.accuracy_mean, "share")}, reward ${number(data.reward_mean)}, ${number(data.step_s)} s`;
    default:
      return data.message;
  }
}

/** The newest first, without how far an evaluation was before it went on. */
function withoutPassed(events) {
  const seen = new Set();
  return events.filter(({ kind, data }) => {
    if (kind !== "evaluation") return true;
    const passed = data.state === "going on" && seen.has(data.step);
    seen.add(data.step);
    return !passed;
  });
}

/** So many of the newest steps, and so many of all others: a thousand steps push no alert out. */
function kept(events) {
  const left = { step: MOST, other: MOST };
  return events.toReversed().filter(({ kind }) => left[kind === "step" ? "step" : "other"]-- > 0).reverse();
}

export function Events({ id, live, query }) {
  const [events, setEvents] = useState([]);
  const kind = query.get("kind") || "";
  const [all, setAll] = useState(!live);
  const begin = useMemo(() => (all ? "" : String(Date.now() - HOUR_MS)), [all]);
  useEffect(() => setEvents([]), [id, begin]);
  useEvents(id, { after: begin, live }, (found) => setEvents((before) => kept([...before, ...found])));
  const found = withoutPassed(events.filter((event) => (kind ? kindOf(event) === kind : event.kind !== "step")).reverse());
  return html`
    <div class="filters"><div class="chips" role="group" aria-label="Kind">${Object.entries(KINDS).map(([value, name]) => html`<button aria-pressed=${value === kind} onClick=${() => setQuery({ kind: value })}>${name}</button>`)}</div>
      ${!all && html`<button class="quiet" onClick=${() => setAll(true)}>From its beginning</button>`}</div>
    ${found.length === 0 ? html`<${Empty}>${all ? "Nothing of the kind." : "Nothing of the kind in the last hour."}<//>` : html`<ol class="events">${found.slice(0, SHOWN).map((event) => html`<li key=${event.id} class=${isNotice(event) ? "" : event.kind}>
      <time datetime=${new Date(eventTime(event.id)).toISOString()}>${moment(eventTime(event.id))}</time><span class="kind">${kindOf(event)}</span><span class="what">${words(event)}${event.data.log_end && html`<details><summary>End of its log</summary><pre>${event.data.log_end}</pre></details>`}</span></li>`)}</ol>`}
    ${found.length > SHOWN && html`<p class="muted">${found.length - SHOWN} older ones are not shown.</p>`}`;
}
