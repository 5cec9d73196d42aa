// Numbers and times as people read them.

const GAP = "\u00a0";
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** 41 s, 12 min, 3 h 05 min, 2 d 4 h. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const at = UNITS.findIndex(([size]) => seconds >= size);
  const [size, name] = UNITS[at];
  const whole = Math.floor(seconds / size);
  if (size <= 60) return `${whole} ${name}`;
  const [smaller, other] = UNITS[at + 1];
  const rest = Math.floor((seconds - whole * size) / smaller);
  return rest ? `${whole} ${name} ${rest} ${other}` : `${whole} ${name}`;
}

export const ago = (ms) => (ms ? `${duration(Math.max(0, (Date.now() - ms) / 1000))} ago` : "");

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

/** The clock of today, else the day with it. */
export function moment(ms) {
  const then = new Date(ms);
  if (then.toDateString() === new Date().toDateString()) return clock(ms);
  return `${then.toLocaleDateString([], { month: "short", day: "numeric" })} ${clock(ms)}`;
}

export const day = (iso) => new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short", hour12: false });

/** Three significant digits, thousands shortened; shares as per cent. */
export function number(value, unit = "") {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (unit === "share" && Math.abs(value) < 0.0005) return `0${GAP}%`;
  if (unit === "share") return `${(100 * value).toFixed(Math.abs(value) < 0.0995 ? 1 : 0)}${GAP}%`;
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)}${GAP}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)}${GAP}k`;
  if (Number.isInteger(value)) return String(value);
  if (size >= 100) return value.toFixed(0);
  if (size >= 1) return value.toFixed(2);
  if (size && size < 1e-4) return value.toExponential(2).replace(/\.?0+e/, "e");
  return size === 0 ? "0" : Number(value.toPrecision(3)).toString();
}

export const count = (value) => value.toLocaleString("en");

/** Milliseconds in an event's id. */
export const eventTime = (id) => Number(id.split("-")[0]);

/** Text with `code` in it, as pieces: every second one is code. */
export const pieces = (text) => text.split("`");

export const shown = (value) => (value === null ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value));

/** 512 MiB, 3.2 GiB. */
export function bytes(value) {
  if (!Number.isFinite(value)) return "–";
  const at = Math.min(4, Math.floor(Math.log2(Math.max(1, value)) / 10));
  const scaled = value / 1024 ** at;
  return `${at && scaled < 100 ? Number(scaled.toPrecision(2)) : Math.round(scaled)}${GAP}${["B", "KiB", "MiB", "GiB", "TiB"][at]}`;
}
