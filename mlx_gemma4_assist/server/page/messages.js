// What a message looks like, and what can be done with it.

import { copyButton } from "./clipboard.js";
import { el, icon, iconButton } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { roundsPicture, showFigures, verdict } from "./stats.js";
import { getSettings } from "./store.js";

/**
 * What a message's buttons do.
 * @typedef {Object} Actions
 * @property {function(Object)} retry answer once more, beside this answer
 * @property {function(Object, string)} edit ask something else in this question's place
 * @property {function(Object)} endThought let a side of an answer come to its point
 * @property {function(Object, number)} branch show the sibling so many places further
 */

/**
 * A message, and how to show it anew while it changes.
 * @param {Object} node
 * @param {Array<Object>} siblings branches that part here, this one among them
 * @param {Actions} actions
 * @returns {{element: HTMLElement, update: function()}}
 */
export function messageView(node, siblings, actions) {
  return node.role === "user" ? questionView(node, siblings, actions) : answerView(node, siblings, actions);
}

function frame(node, name, siblings, actions, ...content) {
  const heading = `name-${node.id}`;
  return el(
    "li",
    { class: `message ${node.role}`, "data-id": node.id },
    el("article", { "aria-labelledby": heading }, el("h3", { id: heading, class: "unseen" }, name), ...content),
  );
}

function pager(node, siblings, actions) {
  if (siblings.length < 2) return null;
  const at = siblings.indexOf(node);
  return el(
    "span",
    { class: "pager", role: "group", "aria-label": "Versions" },
    iconButton("left", "Version before", () => actions.branch(node, -1), { disabled: at === 0 }),
    el("span", {}, `${at + 1} / ${siblings.length}`),
    iconButton("right", "Version after", () => actions.branch(node, 1), { disabled: at === siblings.length - 1 }),
  );
}

function namedButton(name, label, click) {
  return el("button", { type: "button", class: "quiet", "aria-label": label, click }, icon(name), label);
}

function questionView(node, siblings, actions) {
  const body = el("div", { class: "bubble" });
  if (node.pictures.length) {
    const shown = node.pictures.map((url, i) => el("img", { src: url, alt: `Picture ${i + 1} that you sent` }));
    body.append(el("div", { class: "thumbs" }, ...shown));
  }
  if (node.text) body.append(el("p", {}, node.text));
  const buttons = el(
    "div",
    { class: "actions" },
    pager(node, siblings, actions),
    namedButton("edit", "Edit", () => element.replaceWith(editor(node, element, actions))),
    copyButton(() => node.text),
  );
  const element = frame(node, "You", siblings, actions, body, buttons);
  return { element, update() {} };
}

function editor(node, shown, actions) {
  const field = el("textarea", { rows: Math.min(12, node.text.split("\n").length + 1), "aria-label": "Edit message", keydown });
  field.value = node.text;
  const form = el(
    "form",
    { class: "edit", submit },
    field,
    el(
      "p",
      { class: "row" },
      el("span", { class: "note" }, "The first version is kept beside it."),
      el("button", { type: "button", class: "quiet", click: close }, "Cancel"),
      el("button", { class: "main" }, "Send"),
    ),
  );
  const item = el("li", { class: "message user editing" }, form);
  queueMicrotask(() => field.focus());
  return item;

  function close() {
    item.replaceWith(shown);
    shown.querySelector("[aria-label=Edit]").focus();
  }

  function submit(event) {
    event.preventDefault();
    if (field.value.trim() || node.pictures.length) actions.edit(node, field.value);
  }

  function keydown(event) {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  }
}

function answerView(node, siblings, actions) {
  const sides = node.sides.map((side) => sideView(side, node.sides.length > 1, actions));
  const copy = copyButton(() => node.sides[0].text);
  const result = el("p", { class: "verdict", hidden: true });
  const buttons = el(
    "div",
    { class: "actions" },
    pager(node, siblings, actions),
    namedButton("retry", "Answer again", () => actions.retry(node)),
    copy,
  );
  const columns = el("div", { class: sides.length > 1 ? "sides two" : "sides" }, ...sides.map((side) => side.element));
  const element = frame(node, "Gemma", siblings, actions, columns, result, buttons);
  update();
  return { element, update };

  function update() {
    for (const side of sides) side.update();
    result.textContent = verdict(node.sides);
    result.hidden = !result.textContent;
    copy.hidden = !node.sides[0].text;
    buttons.hidden = node.sides.some((side) => side.state === "running");
  }
}

const WAITING = { running: "", done: "", stopped: "Stopped.", failed: "" };

function sideView(side, named, actions) {
  const thoughts = el("div", { class: "markdown" });
  const doing = el("span");
  const enough = el("button", { type: "button", class: "quiet enough", hidden: true, click: () => actions.endThought(side) }, "Answer now");
  const thought = el("details", { class: "thought", hidden: true, toggle: update }, el("summary", {}, icon("thought"), doing), thoughts);
  const text = el("div", { class: "markdown" });
  const note = el("p", { class: "note", hidden: true });
  const failure = el("p", { class: "failure", role: "alert", hidden: true });
  const figures = el("dl", { class: "figures" });
  const picture = el("div", { class: "picture" });
  const name = named ? el("h4", { class: "side-name" }, side.plain ? "Gemma alone" : "With the assistant") : null;
  const label = side.plain ? "Gemma alone" : null;
  const element = el("section", { class: "side", "aria-label": label }, name, thought, enough, text, note, failure, figures, picture);
  let drawn = 0; // tokens in the picture
  return { element, update };

  /** The picture is drawn where it is seen, and a tenth at a time while the answer grows. */
  function draw(running) {
    const count = side.places.length;
    if (!getSettings().colours || (running && count < 1.1 * drawn) || count === drawn) return;
    picture.replaceChildren(roundsPicture(side));
    drawn = count;
  }

  function update() {
    const running = side.state === "running";
    element.classList.toggle("running", running);
    element.classList.toggle("silent", running && !side.text && !side.thought);
    thought.hidden = !side.thought;
    const thinking = running && Boolean(side.thought) && !side.text;
    doing.textContent = thinking ? "Thinking…" : "Thoughts";
    enough.hidden = !thinking || !side.id;
    if (thought.open) renderMarkdown(thoughts, side.thought, side.thoughtRuns);
    renderMarkdown(text, side.text, side.runs);
    note.textContent = noteOf(side);
    note.hidden = !note.textContent;
    if (failure.textContent !== side.error) failure.textContent = side.error;
    failure.hidden = !side.error;
    figures.hidden = side.stats.tokens === 0;
    showFigures(figures, side);
    draw(running);
  }
}

function noteOf(side) {
  if (side.waiting) return "Begins when the other side is done, so that neither slows the other.";
  if (side.state === "running" && side.stats.first === null && side.reading) {
    const [done, total] = side.reading;
    return `Reading: ${done.toLocaleString("en")} of ${total.toLocaleString("en")} tokens`;
  }
  if (side.state === "done" && side.finish === "length") return "Cut off: the most tokens were reached.";
  return WAITING[side.state];
}
