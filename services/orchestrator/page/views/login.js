// The login with a token. The service answers with a cookie that no script can read.
import { html, useState } from "../view.js";
import { post } from "../ask/api.js";
import { Failure } from "../parts/common.js";

/** `expired`: somebody was logged in, and finds all as it was. */
export function Login({ expired, onDone }) {
  const [token, setToken] = useState("");
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      onDone(await post("/login", { token }));
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  };
  return html`<form class="login card" onSubmit=${send}>
    <h1>Log in</h1>
    ${expired && html`<p class="notice">The login has expired. What you had open stays as it is.</p>`}
    <p class="muted">This service wants a token. Whoever runs it makes one with <code>dapo tokens add NAME</code>.</p>
    <label for="token">Token</label>
    <input id="token" type="password" autocomplete="current-password" required value=${token} onInput=${(e) => setToken(e.target.value)} />
    <${Failure} error=${error} />
    <button class="primary" disabled=${busy}>Log in</button>
  </form>`;
}
