// A file of poems before it is sent: what it holds, in words.

import { counted } from "./dom.js";

const MAX_BYTES = 512 * 1024 * 1024;
const MAX_LOOKED = 16 * 1024 * 1024;

/** `{ words, isFine, type }`; the server looks again, and more closely. */
export async function looked(file) {
  if (file.size === 0) return refused(`${file.name} is empty.`);
  if (file.size > MAX_BYTES) return refused(`${file.name} is larger than 512 MB.`);
  const lines = (await file.slice(0, MAX_LOOKED).text()).split("\n");
  if (file.size > MAX_LOOKED) lines.pop();
  const sizes = [], kinds = new Set();
  for (const [index, line] of lines.entries()) {
    if (!line.trim()) continue;
    const row = rowOf(line);
    if (row === null) return refused(`Line ${index + 1} of ${file.name} is no poem, conversation or preference in JSON.`);
    kinds.add(row.type);
    sizes.push(Array.from(row.text).length);
  }
  if (!sizes.length) return refused(`${file.name} holds no poem.`);
  if (kinds.size > 1) return refused(`${file.name} mixes poems and preferences; send one file of each.`);
  const type = [...kinds][0];
  const what = counted(sizes.length, type === "dpo" ? "pair" : "poem");
  const all = sizes.reduce((sum, size) => sum + size, 0);
  const more = file.size > MAX_LOOKED ? " in its first 16 MB" : "";
  const few = sizes.length < 20 ? " That is few: the adapter will know them by heart." : "";
  return {
    type,
    isFine: true,
    words: `${file.name}: ${what}${more}, ${all.toLocaleString("en")} characters, from ${Math.min(...sizes)} to ${Math.max(...sizes)} each.${few} The server looks at rows and memory before it begins.`,
  };
}

function refused(words) {
  return { words, isFine: false, type: "supervised" };
}

/** What one line is about; null if it is nothing one can learn from. */
function rowOf(line) {
  let row;
  try {
    row = JSON.parse(line);
  } catch {
    return null;
  }
  if (typeof row !== "object" || row === null) return null;
  const preferred = row.preferred_output ?? row.chosen;
  if (preferred) return { type: "dpo", text: textOf(preferred) };
  if (Array.isArray(row.messages) && row.messages.length) return { type: "supervised", text: textOf(row.messages) };
  if (typeof row.text === "string" && row.text.trim()) return { type: "supervised", text: row.text };
  return null;
}

function textOf(turns) {
  if (typeof turns === "string") return turns;
  return turns.map((turn) => (typeof turn.content === "string" ? turn.content : "")).join("");
}
