// The JSON Schema of a spec as fields of a form.

const resolve = (schema, root) => (schema.$ref ? { ...root.$defs[schema.$ref.split("/").at(-1)], ...schema, $ref: undefined } : schema);

/** What a field may be: its kind for the form, its choices, whether it may be none. */
function kindOf(schema, root) {
  const plain = resolve(schema, root);
  const some = (plain.anyOf || plain.oneOf || [plain]).map((one) => resolve(one, root));
  const optional = some.some((one) => one.type === "null");
  const rest = some.filter((one) => one.type !== "null");
  const [only] = rest;
  if (rest.length === 1 && only.enum) return { kind: "choice", choices: only.enum, optional };
  if (rest.length === 1 && only.const !== undefined) return { kind: "choice", choices: [only.const], optional };
  if (rest.length === 1 && ["integer", "number", "boolean", "string"].includes(only.type)) return { kind: only.type, optional };
  return { kind: rest.some((one) => one.type === "string" || one.enum) ? "text" : "json", optional };
}

/** Sections of the schema: { name, about, fields: [{ path, name, about, kind, choices, default, required }] }. */
export function sections(root) {
  const found = [{ name: "", about: "", fields: [] }];
  const field = (path, name, schema, required) => {
    const plain = resolve(schema, root);
    return { path, name, about: schema.description || plain.description || "", fallback: plain.default, required, ...kindOf(schema, root) };
  };
  const walk = (path, schema, into) => {
    for (const [name, one] of Object.entries(schema.properties || {})) {
      const plain = resolve(one, root);
      const place = path ? `${path}.${name}` : name;
      if (plain.properties && plain.type === "object") {
        const section = path ? into : { name, about: plain.description || "", fields: [] };
        if (!path) found.push(section);
        walk(place, plain, section);
      } else into.fields.push(field(place, path.includes(".") ? place.slice(place.indexOf(".") + 1) : name, one, (schema.required || []).includes(name)));
    }
  };
  walk("", root, found[0]);
  return found.filter((section) => section.fields.length);
}

/** What was typed, as a value: undefined where nothing was. What is no number stays text, so that the service says so. */
export function parse(kind, text) {
  if (text === "") return undefined;
  if (kind === "integer" || kind === "number") return Number.isFinite(Number(text)) ? Number(text) : text;
  if (kind === "boolean") return text === "true";
  if (kind === "json" || (kind === "text" && /^[[{]/.test(text.trim()))) {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }
  return text;
}

export const written = (value) => (value === undefined ? "" : value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));

/** A spec of dotted paths. */
export function nested(values) {
  const spec = {};
  for (const [path, value] of Object.entries(values)) {
    const names = path.split(".");
    const last = names.pop();
    let at = spec;
    for (const name of names) at = at[name] ??= {};
    at[last] = value;
  }
  return spec;
}
