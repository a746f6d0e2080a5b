// What is tried, and how: all of it fits into the page's address, so it can be kept and shared.

export const BASE = "base";
export const MAX_STRENGTH = 1.5;
export const MAX_COLUMNS = 200;

export const emptyPart = (name) => ({ name, checkpoint: "", strength: 1 });
export const emptyColumn = (name) => ({ parts: [emptyPart(name)], temperature: null, seed: null });
export const emptySetup = () => ({ theme: "", seed: 7, maxTokens: 256, blind: false, columns: [] });

/** How a request's `model` field spells it: `xuzhimo@85:0.7+hushi:0.3`. */
export function modelOf(parts) {
  if (parts.length === 1 && parts[0].name === BASE) return BASE;
  return parts
    .filter((part) => part.name !== BASE)
    .map(({ name, checkpoint, strength }) =>
      name + (checkpoint === "" ? "" : `@${checkpoint}`) + (strength === 1 ? "" : `:${strength}`))
    .join("+") || BASE;
}

/** The parts of such a spelling; null if it is none. */
export function partsOf(model) {
  const parts = model.split("+").map((piece) => {
    const match = /^([^@:+/\\\s.][^@:+/\\\s]*)(?:@(\d{1,9}|best|last))?(?::(\d+(?:\.\d+)?))?$/u.exec(piece);
    if (match === null) return null;
    const strength = match[3] === undefined ? 1 : Math.min(Number(match[3]), MAX_STRENGTH);
    return { name: match[1], checkpoint: match[2] ?? "", strength };
  });
  return parts.includes(null) ? null : parts;
}

/** A set-up as what stands behind the # of an address. */
export function toHash(setup) {
  const params = new URLSearchParams();
  params.set("theme", setup.theme);
  params.set("seed", String(setup.seed));
  params.set("max", String(setup.maxTokens));
  if (setup.blind) params.set("blind", "1");
  for (const column of setup.columns) {
    const temperature = column.temperature === null ? "" : `~t${column.temperature}`;
    const seed = column.seed === null ? "" : `~s${column.seed}`;
    params.append("c", modelOf(column.parts) + temperature + seed);
  }
  return `#${params}`;
}

/** The set-up that an address holds; what makes no sense in it is left out. */
export function fromHash(hash) {
  const params = new URLSearchParams(hash.replace(/^#/, ""));
  const setup = emptySetup();
  setup.theme = params.get("theme") ?? "";
  setup.seed = whole(params.get("seed")) ?? setup.seed;
  setup.maxTokens = Math.max(1, whole(params.get("max")) ?? setup.maxTokens);
  setup.blind = params.get("blind") === "1";
  setup.columns = params.getAll("c").slice(0, MAX_COLUMNS).map(columnOf).filter((c) => c !== null);
  return setup;
}

function columnOf(text) {
  const [model, ...rest] = text.split("~");
  const parts = partsOf(model);
  if (parts === null) return null;
  const said = (letter) => rest.find((entry) => entry.startsWith(letter))?.slice(1);
  return { parts, temperature: temperature(said("t")), seed: whole(said("s")) };
}

/** A whole number from 0, or null. */
export function whole(text) {
  return /^\d{1,15}$/.test(text ?? "") ? Number(text) : null;
}

/** 0 to 2, or null. */
export function temperature(text) {
  const number = Number.parseFloat(text ?? "");
  return number >= 0 && number <= 2 ? number : null;
}
