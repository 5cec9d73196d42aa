// Views that are loaded once somebody wants them: what is seen first waits for nothing else.
import { html, useEffect, useState } from "../view.js";
import { on } from "../ask/api.js";
import { Failure, Loading } from "./common.js";

/** A component that stands for the one that `load()` brings, under `name`. Made once for each, outside of views. */
export function later(name, load) {
  let known = null;
  return function Later(props) {
    const [View, setView] = useState(() => known);
    const [error, setError] = useState(null);
    const fetched = () => {
      setError(null);
      load().then((module) => {
        known = module[name];
        setView(() => known);
      }, setError);
    };
    useEffect(() => {
      if (View) return undefined;
      fetched();
      return on("answers", fetched);
    }, [View === null]);
    if (View) return html`<${View} ...${props} />`;
    return error ? html`<${Failure} error=${{ message: "This view could not be loaded." }} /><button onClick=${fetched}>Try again</button>` : html`<${Loading} what="the view" />`;
  };
}
