// Copying, also where the page came over plain HTTP from another machine and browsers offer no clipboard.

import { el, icon, say } from "./dom.js";

async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const before = document.activeElement;
  const field = document.body.appendChild(el("textarea", { class: "unseen", "aria-hidden": "true" }));
  field.value = text;
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before?.focus();
  if (!done) throw new Error("not copied");
}

/**
 * A button that copies.
 * @param {function(): string} text
 */
export function copyButton(text) {
  const label = el("span", {}, "Copy");
  return el("button", { type: "button", class: "quiet copy", click }, icon("copy"), label);

  async function click() {
    try {
      await copy(text());
      label.textContent = "Copied";
    } catch {
      label.textContent = "Not copied";
    }
    say(label.textContent);
    setTimeout(() => (label.textContent = "Copy"), 2000);
  }
}
