// The page: its frame, and which view the address asks for.
import { html, render, useEffect, useErrorBoundary, useRef, useState } from "./view.js";
import { beginSession, get, on, post } from "./ask/api.js";
import { useRoute } from "./route.js";
import { Login } from "./views/login.js";
import { Empty, Failure } from "./parts/common.js";
import { later } from "./parts/later.js";
import { ThemeButton, restoreTheme } from "./parts/theme.js";

const Runs = later("Runs", () => import("./views/runs.js"));
const Run = later("Run", () => import("./views/run.js"));
const Compare = later("Compare", () => import("./views/compare.js"));
const Machine = later("Machine", () => import("./views/machine.js"));
const Start = later("Start", () => import("./views/start.js"));
const PLACES = { runs: "Runs", compare: "Compare", machine: "Machine", start: "New run" };

function View({ route, identity }) {
  const [place, id, tab, detail] = route.parts;
  if (place === "runs" && id) return html`<${Run} key=${id} id=${id} tab=${tab || "overview"} detail=${detail} query=${route.query} identity=${identity} />`;
  if (place === "compare") return html`<${Compare} ids=${[...new Set([...(route.query.get("ids") || "").split(","), ...route.query.getAll("run")])].filter(Boolean)} />`;
  if (place === "machine") return html`<${Machine} identity=${identity} />`;
  if (place === "start") return html`<${Start} from=${route.query.get("from") || ""} />`;
  if (place && place !== "runs") return html`<h1>Nothing here</h1><${Empty}>There is nothing at #/${route.parts.join("/")}. <a href="#/">All runs</a><//>`;
  return html`<${Runs} query=${route.query} identity=${identity} />`;
}

/** What a view cannot draw costs that view, not the page. */
function Guarded({ place, children }) {
  const [error, again] = useErrorBoundary((found) => console.error(found));
  useEffect(() => {
    if (error) again();
  }, [place]);
  if (!error) return children;
  return html`<${Failure} error=${{ message: `This view cannot be drawn: ${error.message}` }} /><button onClick=${again}>Try again</button>`;
}

function Silence() {
  const [silent, setSilent] = useState(false);
  useEffect(() => on("silent", () => setSilent(true)), []);
  useEffect(() => on("answers", () => setSilent(false)), []);
  return html`<div role="status">${silent && html`<p class="silence">The run service does not answer. What is shown may be old; the page goes on by itself.</p>`}</div>`;
}

/** `wanted`: "" where nobody has to log in; "expired" where somebody was, who finds all as it was. */
function useIdentity() {
  const [identity, setIdentity] = useState(null);
  const [wanted, setWanted] = useState("");
  const known = useRef(null);
  known.current = identity;
  useEffect(() => on("login", () => setWanted((before) => before || (known.current ? "expired" : "first"))), []);
  useEffect(() => {
    const ask = () => get("/v1/whoami").then(setIdentity, () => {});
    ask();
    return on("answers", () => known.current || ask());
  }, []);
  const enter = (found) => {
    setIdentity(found);
    setWanted("");
    beginSession();
  };
  const leave = async () => {
    await post("/logout", {});
    setIdentity(null);
    setWanted("first");
  };
  return { identity, wanted, enter, leave };
}

function App() {
  const route = useRoute();
  const { identity, wanted, enter, leave } = useIdentity();
  const main = useRef(null);
  const [place = "runs", id = ""] = route.parts;
  const before = useRef(`${place}/${id}`);
  useEffect(() => {
    document.title = place === "runs" ? (id ? `${id} – dapo` : "dapo") : PLACES[place] ? `${PLACES[place]} – dapo` : "dapo";
    if (before.current === `${place}/${id}`) return;
    // Another view begins at its top, for readers, too.
    before.current = `${place}/${id}`;
    scrollTo(0, 0);
    main.current.focus({ preventScroll: true });
  }, [place, id]);
  const mayRun = identity && identity.scope !== "read";
  const skip = (event) => {
    event.preventDefault();
    main.current.focus();
  };
  return html`
    <a class="skip" href="#main" onClick=${skip}>To the content</a>
    <header class="top">
      <a class="brand" href="#/"><img src="/page/icon.svg" alt="" width="22" height="22" /><span>dapo</span></a>
      <nav aria-label="Main">
        ${Object.entries(PLACES).map(([name, label]) => (name !== "start" || mayRun) && html`<a href=${name === "runs" ? "#/" : `#/${name}`} aria-current=${name === place ? "page" : null}>${label}</a>`)}
      </nav>
      <span class="grow"></span>
      ${identity && identity.name && html`<span class="who" title=${`scope ${identity.scope}`}>${identity.name}</span><button class="quiet" onClick=${leave}>Log out</button>`}
      <${ThemeButton} />
    </header>
    <${Silence} />
    <main id="main" ref=${main} tabindex="-1">
      ${wanted && html`<${Login} expired=${wanted === "expired"} onDone=${enter} />`}
      ${wanted !== "first" && html`<div hidden=${Boolean(wanted)}><${Guarded} place=${route.parts.join("/")}><${View} route=${route} identity=${identity} /><//></div>`}
    </main>`;
}

restoreTheme();
render(html`<${App} />`, document.getElementById("app"));
