// The run API: every operation of the OpenAPI document, with what it takes, what it answers, and a command that asks it.
import { html, render, useEffect, useState } from "../view.js";
import { ThemeButton, restoreTheme } from "../parts/theme.js";
import { Failure, Loading } from "../parts/common.js";
import { Fields, typeOf } from "./schema.js";

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

/** [type, content] of the first kind of content, where there is any. */
const contentOf = (part) => Object.entries((part && part.content) || {})[0];

function operations(document) {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ ...operation, method: method.toUpperCase(), path, tag: operation.tags[0] })),
  );
}

function command({ method, path, parameters = [], requestBody, security = [] }) {
  const filled = parameters.filter((one) => one.in === "path" && one.example !== undefined).reduce((found, one) => found.replace(`{${one.name}}`, one.example), path);
  const content = contentOf(requestBody);
  const parts = ["curl -fsS", security.length && '-H "Authorization: Bearer $DAPO_API_TOKEN"', content && "--json @request.json", method !== "GET" && !(content && method === "POST") && `-X ${method}`, `"$DAPO_URL${filled}"`];
  return parts.filter(Boolean).join(" ");
}

function Parameters({ items }) {
  return html`<h3>Parameters</h3>
    <div class="scroll" tabindex="0" role="region" aria-label="Parameters">
      <table class="small">
        <thead><tr><th scope="col">Name</th><th scope="col">In</th><th scope="col">Type</th><th scope="col">Meaning</th></tr></thead>
        <tbody>
          ${items.map(
            (one) => html`<tr key=${one.name}>
              <th scope="row"><code>${one.name}</code>${one.required && html` <span class="tag">required</span>`}</th>
              <td>${one.in}</td>
              <td><code>${typeOf(one.schema)}</code></td>
              <td>${one.description || ""} ${one.schema.default !== undefined && one.schema.default !== "" && html`<span class="muted">Default: ${JSON.stringify(one.schema.default)}</span>`}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`;
}

function Content({ document, title, part, name }) {
  const content = contentOf(part);
  if (!content) return html`<h3>${title}</h3>`;
  const [type, { schema, example }] = content;
  return html`<h3>${title} <span class="muted">${type}</span></h3>
    <${Fields} document=${document} schema=${schema} name=${name} />
    ${example !== undefined && html`<pre class="example" tabindex="0" aria-label="Example">${shown(example)}</pre>`}`;
}

function Operation({ document, operation, open }) {
  const [wanted, setWanted] = useState(open);
  const name = operation.operationId;
  const codes = Object.keys(operation.responses);
  const good = codes.find((code) => code.startsWith("2"));
  return html`<details class="card operation" id=${name} open=${open} onToggle=${(event) => setWanted(event.currentTarget.open)}>
    <summary><span class="method ${operation.method.toLowerCase()}">${operation.method}</span> <code>${operation.path}</code> <span class="muted">${name}</span></summary>
    ${wanted && html`
      <p>${operation.description}</p>
      <pre class="example" tabindex="0" aria-label="Command">${command(operation)}</pre>
      ${operation.parameters && html`<${Parameters} items=${operation.parameters} />`}
      ${operation.requestBody && html`<${Content} document=${document} title="Body" part=${operation.requestBody} name="the body" />`}
      <${Content} document=${document} title=${`Answer ${good}`} part=${operation.responses[good]} name="the answer" />
      <p class="muted">Refusals are problem details (RFC 9457): ${codes.filter((code) => code !== good).map((code) => `${code} ${operation.responses[code].description}`).join(", ")}.</p>`}
  </details>`;
}

function Docs() {
  const [document, setDocument] = useState(null);
  const [error, setError] = useState(null);
  const [words, setWords] = useState("");
  useEffect(() => {
    fetch("/openapi.json").then((answer) => answer.json()).then(setDocument, setError);
  }, []);
  const asked = location.hash.slice(1);
  useEffect(() => {
    const found = document && asked && window.document.getElementById(asked);
    if (found) found.scrollIntoView();
  }, [document]);
  const fits = (one) => `${one.method} ${one.path} ${one.operationId} ${one.description}`.toLowerCase().includes(words.toLowerCase());
  return html`
    <header class="top">
      <a class="brand" href="/"><img src="/page/icon.svg" alt="" width="22" height="22" />dapo</a>
      <span class="grow"></span>
      <${ThemeButton} />
    </header>
    <main id="main" tabindex="-1">
      <h1>The run API</h1>
      <${Failure} error=${error} />
      ${!document && !error && html`<${Loading} what="the OpenAPI document" />`}
      ${document && html`
        <p>Version ${document.info.version}. Tools read <a href="/openapi.json">/openapi.json</a>; gRPC has the same operations.</p>
        <p class="filters"><label>Find <input type="search" value=${words} onInput=${(event) => setWords(event.target.value)} /></label></p>
        ${document.tags.map(({ name, description }) => {
          const found = operations(document).filter((one) => one.tag === name && fits(one));
          return found.length > 0 && html`<section key=${name} aria-label=${name}>
            <h2>${description}</h2>
            ${found.map((one) => html`<${Operation} key=${one.operationId} document=${document} operation=${one} open=${one.operationId === asked} />`)}
          </section>`;
        })}`}
    </main>`;
}

restoreTheme();
render(html`<${Docs} />`, window.document.getElementById("app"));
