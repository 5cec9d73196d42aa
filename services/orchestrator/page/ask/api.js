// What is asked of the run service. Every failure is a Problem: its text is for people, its `problems` name fields.

export class Problem extends Error {
  constructor(status, detail, problems = []) {
    super(detail);
    this.status = status;
    this.problems = problems;
  }
}

// Events of this module: "login" where the service wants one, "session" once somebody has logged in,
// "silent" and "answers" where the service goes away and comes back.
const events = new EventTarget();
let answers = true;

/** Calls `listener` on each `name`. Returns how to stop that. */
export function on(name, listener) {
  events.addEventListener(name, listener);
  return () => events.removeEventListener(name, listener);
}

const tell = (name) => events.dispatchEvent(new Event(name));

export const beginSession = () => tell("session");

function heard(there) {
  if (there !== answers) tell(there ? "answers" : "silent");
  answers = there;
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    heard(false);
    throw new Problem(0, "The run service does not answer.");
  }
  heard(true);
  if (response.ok) return response;
  if (response.status === 401 && path !== "/login") tell("login");
  let details = {};
  try {
    details = await response.json();
  } catch {
    // Of another server, such as a proxy.
  }
  throw new Problem(response.status, details.detail || `The service answered ${response.status}.`, details.problems || []);
}

export async function get(path, query = {}, signal = undefined) {
  const pairs = Object.entries(query).flatMap(([name, value]) => [value].flat().map((one) => [name, one]));
  const wanted = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(wanted).toString();
  return (await ask(text ? `${path}?${text}` : path, { signal })).json();
}

/** Calls `take` with each piece of text as it comes, until it ends: first with none, once it has begun. NULs are signs of life. */
export async function stream(path, query, take, signal) {
  const { body } = await ask(`${path}?${new URLSearchParams(query)}`, { signal });
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  take("");
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    take(value.replaceAll("\0", ""));
  }
}

const send = (method) => async (path, body, { signal, headers } = {}) => {
  const options = { method, headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body), signal };
  const text = await (await ask(path, options)).text();
  return text ? JSON.parse(text) : null;
};

export const post = send("POST");
export const patch = send("PATCH");

export const remove = (path, query) => ask(`${path}?${new URLSearchParams(query)}`, { method: "DELETE" });

export const runPath = (id) => `/v1/runs/${encodeURIComponent(id)}`;
