// Elements made of text nodes and attributes.  Nothing here, and nothing that uses it, parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element.  Children are nodes or values, and values become text. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
  return node;
}

/** Return the element of that id. */
export const byId = (id) => document.getElementById(id);

/** Return the width in pixels of a column of a grid, so that charts are drawn at their own size. */
export function columnWidth(grid, otherwise) {
  const first = Number.parseFloat(getComputedStyle(grid).gridTemplateColumns);
  return Number.isFinite(first) && first > 0 ? Math.round(first) : otherwise;
}

/** Replace what a place shows. */
export function show(place, ...children) {
  place.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

/** Return a number for people: three significant digits, no noise. */
export function number(value, digits = null) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (digits !== null) return value.toFixed(digits);
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return value.toFixed(size >= 10 ? 1 : 2);
}

/** Return a share of 0..1 as per cent. */
export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`);

/** Return seconds for people. */
export function duration(seconds) {
  if (seconds < 1) return "less than 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** Return the time of day. */
export const clock = (unixSeconds) => new Date(1000 * unixSeconds).toLocaleTimeString([], { hour12: false });

/** Return "1 session", "2 sessions". */
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
