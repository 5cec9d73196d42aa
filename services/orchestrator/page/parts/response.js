// One response with its verdict.
import { html } from "../view.js";
import { number } from "../pure/words.js";

const NAMES = { same: "span", gone: "del", new: "ins" };

export const Verdict = ({ response }) => html`<span class=${response.correct ? "verdict right" : "verdict wrong"}>${response.correct ? "✓ right" : "✕ wrong"}</span>`;

const Facts = ({ response }) => html`<span class="facts">
  ${response.reason && html`<span>${response.reason}</span>`}
  ${response.extracted && html`<span>answer <code><bdi>${response.extracted}</bdi></code></span>`}
  <span>${response.tokens} tokens${response.truncated ? ", cut" : ""}</span>
  <span>reward ${number(response.reward)}</span>
  ${response.penalty ? html`<span>penalty ${number(response.penalty)}</span>` : null}
  <span>version ${response.version_min}${response.version_max > response.version_min ? `–${response.version_max}` : ""}</span>
</span>`;

/** `pieces`: of a diff, instead of the text. */
export const Response = ({ response, pieces }) => html`<li class="response">
  <div class="line"><${Verdict} response=${response} /><${Facts} response=${response} /></div>
  <pre dir="auto">${pieces ? pieces.map((piece) => html`<${NAMES[piece.kind]}>${piece.text}<//>`) : response.text ?? "(its text was gone)"}</pre>
</li>`;
