// Building the document. Text only ever becomes text: nothing here, or anywhere, writes markup.

const PROPERTIES = new Set(["value", "checked", "disabled", "textContent", "hidden", "tabIndex"]);
const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, properties, `on...` listeners, and children that are nodes or text. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for a drawing. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A field with its label above it. */
export function field(label, input, ...more) {
  return el("label", { class: "field" }, el("span", {}, label), input, ...more);
}

/** A list of terms and what they are; empty values are left out. */
export function facts(pairs) {
  const rows = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts" }, ...rows.map(([term, value]) =>
    el("div", {}, el("dt", {}, term), el("dd", {}, String(value)))));
}

/** "1 poem", "2 poems". */
export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** Bytes as people read them. */
export function bytes(number) {
  if (number >= 1e9) return `${(number / 1e9).toFixed(1)} GB`;
  return number >= 1e6 ? `${(number / 1e6).toFixed(1)} MB` : `${Math.round(number / 1e3)} kB`;
}
