// What the address says: where one is, and what is filtered.
import { useEffect, useState } from "./view.js";

const decoded = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

const parse = () => {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query || "") };
};

/** The address behind #: its parts and its query. */
export function useRoute() {
  const [route, setRoute] = useState(parse);
  useEffect(() => {
    const changed = () => setRoute(parse());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

/** Writes into the address what is looked for, so that Back and a link lead to the same: no step of the history of its own. */
export function setQuery(changes) {
  const [path, query] = location.hash.split("?");
  const next = new URLSearchParams(query || "");
  for (const [name, value] of Object.entries(changes)) {
    next.delete(name);
    [value].flat().filter(Boolean).forEach((one) => next.append(name, one));
  }
  const text = next.toString();
  history.replaceState(null, "", (path || "#/") + (text ? `?${text}` : ""));
  dispatchEvent(new Event("hashchange"));
}
