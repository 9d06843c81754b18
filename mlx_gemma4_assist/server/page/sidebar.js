// The list of conversations.

import { ask } from "./dialogs.js";
import { byId, download, el, iconButton } from "./dom.js";
import { asMarkdown } from "./tree.js";
import { listConversations, loadConversation } from "./store.js";

const NARROW = matchMedia("(max-width: 60rem)");

/**
 * What the list does.
 * @typedef {Object} Actions
 * @property {function(string)} open the conversation of this id
 * @property {function(string, string)} rename
 * @property {function(string)} remove
 */

/**
 * Show the list.
 * @param {string} current the id of the conversation that is open
 * @param {Actions} actions
 */
export async function showConversations(current, actions) {
  const heads = await listConversations();
  byId("conversations").replaceChildren(...heads.map((head) => entry(head, head.id === current, actions)));
  byId("export-all").disabled = !heads.length;
}

function entry(head, current, actions) {
  const { id, title } = head;
  const open = el("button", { type: "button", class: "open", title, "aria-current": current ? "true" : null, click: () => opened(id) }, title);
  return el(
    "li",
    {},
    open,
    el(
      "span",
      { class: "tools" },
      iconButton("edit", `Rename ${title}`, rename),
      iconButton("export", `Export ${title}`, () => exportOne(id)),
      iconButton("delete", `Delete ${title}`, remove),
    ),
  );

  function opened() {
    closeSidebar();
    actions.open(id);
  }

  async function rename() {
    const name = await ask({ title: "Rename conversation", value: title, ok: "Rename" });
    if (name?.trim()) await actions.rename(id, name.trim());
  }

  async function remove() {
    if ((await ask({ title: `Delete “${title}”?`, ok: "Delete" })) !== null) await actions.remove(id);
  }
}

async function exportOne(id) {
  const conversation = await loadConversation(id);
  const name = fileName(conversation.title);
  const note = "A name that ends with .md gives the text that is shown, one with .json all of it.";
  const kind = await ask({ title: "Export conversation", value: `${name}.md`, ok: "Export", note });
  if (kind === null) return;
  if (kind.endsWith(".json")) download(kind, JSON.stringify(conversation, null, 1), "application/json");
  else download(kind, asMarkdown(conversation), "text/markdown");
}

/** Hand all conversations to the user as one file. */
export async function exportAll() {
  const heads = await listConversations();
  const all = await Promise.all(heads.map(({ id }) => loadConversation(id)));
  download("conversations.json", JSON.stringify(all, null, 1), "application/json");
}

function fileName(title) {
  return title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").toLowerCase() || "conversation";
}

/** On narrow screens the list lies over the messages; nothing behind it can be reached then. */
export function openSidebar() {
  document.body.classList.add("listing");
  byId("open-sidebar").setAttribute("aria-expanded", "true");
  for (const tag of ["main", "header"]) document.querySelector(`body > ${tag}`).inert = true;
  byId("new").focus();
}

/** @returns {boolean} whether it was open */
export function closeSidebar() {
  if (!document.body.classList.contains("listing")) return false;
  document.body.classList.remove("listing");
  for (const tag of ["main", "header"]) document.querySelector(`body > ${tag}`).inert = false;
  byId("open-sidebar").setAttribute("aria-expanded", "false");
  byId("open-sidebar").focus();
  return true;
}

NARROW.addEventListener("change", closeSidebar);
