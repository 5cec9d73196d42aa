// Light or dark: as the system has it, or as somebody has chosen here.
import { html, useState } from "../view.js";

const KEY = "dapo-theme";
const NAMES = { "": "System", light: "Light", dark: "Dark" };

export function restoreTheme() {
  const theme = localStorage.getItem(KEY);
  if (theme) document.documentElement.dataset.theme = theme;
}

export function ThemeButton() {
  const [theme, setTheme] = useState(localStorage.getItem(KEY) || "");
  const change = (event) => {
    const chosen = event.target.value;
    if (chosen) document.documentElement.dataset.theme = chosen;
    else delete document.documentElement.dataset.theme;
    localStorage.setItem(KEY, chosen);
    setTheme(chosen);
    dispatchEvent(new Event("dapo-theme"));
  };
  return html`<select class="theme" aria-label="Colours" value=${theme} onChange=${change}>
    ${Object.entries(NAMES).map(([value, name]) => html`<option value=${value} selected=${value === theme}>${name}</option>`)}
  </select>`;
}
