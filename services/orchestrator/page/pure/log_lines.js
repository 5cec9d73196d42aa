// The lines of a log that are kept, and how grave each is. Pure: the view draws them.

export const MOST = 5000;
const CHUNK = 250;
const LEVEL = /\b(DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b/;
const HEAD = 100;
const NAMES = { DEBUG: "debug", INFO: "", WARN: "warning", WARNING: "warning", ERROR: "error", CRITICAL: "error", FATAL: "error" };

/** "error", "warning", "debug" or "": what the line says, else as the line before, of which a traceback is a part. */
export function levelOf(line, before) {
  const found = LEVEL.exec(line.slice(0, HEAD));
  if (found) return NAMES[found[1]];
  if (line.startsWith("Traceback (most recent call last)")) return "error";
  return /^\s|^\w+(\.\w+)*(Error|Exception|Interrupt)\b/.test(line) || line === "" ? before : "";
}

/** Of the log's newest lines, read anew, those after what is known already. Both are of one log, and `known` begins no later. */
export function unknown(known, lines) {
  for (let many = Math.min(known.length, lines.length); many > 0; many--) {
    if (known.slice(-many).every((line, index) => line === lines[index])) return lines.slice(many);
  }
  return lines;
}

/** Chunks { first, lines: [{ text, level }] } with more lines at the end; of more than MOST lines the oldest chunks go. Chunks that
 * are not changed stay the same objects, so that they are not drawn again. */
export function appended(chunks, texts) {
  const found = [...chunks];
  let level = found.at(-1)?.lines.at(-1)?.level ?? "";
  let last = found.at(-1);
  let next = last ? last.first + last.lines.length : 1;
  let open = null;
  for (const text of texts) {
    if (!open && last && last.lines.length < CHUNK) {
      open = { ...last, lines: [...last.lines] };
      found[found.length - 1] = open;
    } else if (!open || open.lines.length >= CHUNK) {
      open = { first: next, lines: [] };
      found.push(open);
    }
    level = levelOf(text, level);
    open.lines.push({ text, level });
    last = open;
    next++;
  }
  let many = found.reduce((sum, chunk) => sum + chunk.lines.length, 0);
  while (many - found[0]?.lines.length >= MOST) many -= found.shift().lines.length;
  return found;
}
