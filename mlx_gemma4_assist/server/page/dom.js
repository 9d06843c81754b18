// Nodes are built, never written as HTML: nothing that a model or a user wrote is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element.
 * @param {string} tag
 * @param {Object<string, *>} attributes functions become listeners of the event that they name; true is an attribute
 *     without a value; false, null and undefined are left out.
 * @param {...(Node|string|null)} children null is left out.
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** As {@link el}, of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** An icon of the sprite in index.html; what it means is said by the button that holds it. */
export function icon(name) {
  return svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

/** A button that shows an icon alone. */
export function iconButton(name, label, click, more = {}) {
  return el("button", { type: "button", class: "icon", "aria-label": label, title: label, click, ...more }, icon(name));
}

/** The element of this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Tell screen readers, once, when they have said what they are saying. */
export function say(text) {
  byId("said").textContent = text;
}

let fading = 0;

/** Tell everybody, for a few seconds. */
export function toast(text) {
  const place = byId("toast");
  place.textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => place.replaceChildren(), 8000);
}

/** Hand text to the user as a file. */
export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
