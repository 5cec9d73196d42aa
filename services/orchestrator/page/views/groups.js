// Groups by ledger state.
import { html } from "../view.js";
import { get, runPath } from "../ask/api.js";
import { usePoll } from "../ask/hooks.js";
import { LEDGER } from "../pure/states.js";
import { Empty, Failure, Loading, Table } from "../parts/common.js";

export function Groups({ id, query, live }) {
  const state = query.get("state") || "";
  const { value, error } = usePoll((signal) => get(`${runPath(id)}/groups`, { state, limit: 100 }, signal), live ? 5 : 0, [id, state]);
  const base = `#/runs/${encodeURIComponent(id)}/groups`;
  return html`
    <nav class="chips" aria-label="State"><a href=${base} aria-current=${state ? null : "page"}>all</a>
      ${LEDGER.map((one) => html`<a href=${`${base}?state=${one}`} aria-current=${one === state ? "page" : null}>${one}</a>`)}</nav>
    <${Failure} error=${error} />
    ${!value ? !error && html`<${Loading} what="groups" />` : value.groups.length === 0 ? html`<${Empty}>No group with a record is ${state || "there"}.<//>` : html`
      <${Table} name="Groups, the newest first">
        <thead><tr><th scope="col">Group</th><th scope="col">State</th><th scope="col">Right</th><th scope="col">Version</th><th scope="col">Prompt</th></tr></thead>
        <tbody>${value.groups.map((one) => html`<tr key=${one.group_id}><th scope="row"><a href=${`${base}/${one.group_id}`}>${one.group_id}</a></th>
          <td>${one.state}${one.reason && html` <span class="muted">${one.reason}</span>`}</td><td>${one.responses ? `${one.correct} of ${one.responses}` : `0 graded of ${one.group_size}`}</td><td>${one.issued_version}</td><td class="clip"><bdi>${one.prompt}</bdi></td></tr>`)}</tbody><//>`}`;
}
