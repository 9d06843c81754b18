// The page: joins the list, the messages and the composer to conversations under way.

import { endThought, listModels } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { askSettings, showKeys } from "./dialogs.js";
import { byId, el, say, toast } from "./dom.js";
import { messageView } from "./messages.js";
import { closeSidebar, exportAll, openSidebar, showConversations } from "./sidebar.js";
import { showLegend } from "./stats.js";
import { changeSettings, deleteConversation, getSettings, lasting, saveConversation } from "./store.js";
import { choose, newConversation, path, siblings } from "./tree.js";

const SUGGESTIONS = [
  "Explain how speculative decoding works, in three sentences.",
  "Write a Python function that merges two sorted lists, with a short test.",
  "Plan a weekend in Lisbon as a table: day, morning, afternoon, evening.",
];
const NEAR = 80; // pixels from the end within which new text is followed
const READ_OUT = 2000; // characters of an answer

const chat = new Chat(changed, ended);
const composer = new Composer({ send, stop, editLast, switched });
let conversation = newConversation();
let views = new Map(); // id of a message -> its view
let frame = 0;

// What is shown

function show() {
  views = new Map();
  const shown = path(conversation).map((node) => {
    const view = messageView(node, siblings(conversation, node), { retry, edit, branch, endThought: answerNow });
    views.set(node.id, view);
    return view.element;
  });
  byId("messages").replaceChildren(...shown);
  byId("welcome").hidden = shown.length > 0;
  byId("title").textContent = conversation.title;
  document.title = `${conversation.title} · Gemma 4`;
  showState();
}

function showState() {
  composer.setBusy(chat.busy(conversation));
  const { colours } = getSettings();
  document.documentElement.toggleAttribute("data-colours", colours);
  byId("legend").hidden = !colours;
  if (colours) showLegend(byId("legend"), path(conversation).at(-1)?.sides?.[0] ?? null);
}

function list() {
  return showConversations(conversation.id, { open, rename, remove });
}

function atEnd() {
  const { scrollHeight, scrollTop, clientHeight } = byId("scroll");
  return scrollHeight - scrollTop - clientHeight < NEAR;
}

function toEnd() {
  byId("scroll").scrollTop = byId("scroll").scrollHeight;
}

// Answers

function changed(of, node) {
  if (of !== conversation) return;
  if (!views.has(node.id)) {
    show();
    toEnd();
    return;
  }
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    const follow = atEnd();
    views.get(path(conversation).at(-1)?.id)?.update();
    showState();
    if (follow) toEnd();
    byId("to-end").hidden = follow;
  });
}

function ended(of, node) {
  list();
  if (of !== conversation) return;
  const follow = atEnd();
  views.get(node.id)?.update();
  showState();
  if (follow) toEnd();
  const [side] = node.sides;
  const states = { done: "Answer:", stopped: "Stopped." };
  if (side.state in states) say(`${states[side.state]} ${side.text.slice(0, READ_OUT)}`);
  const refused = node.sides.find(({ status }) => status === 401);
  if (refused) settings(refused.error);
}

function send(text, pictures) {
  chat.ask(conversation, text, pictures);
  location.replace(`#${conversation.id}`);
  list();
}

function stop() {
  chat.stop(conversation);
}

function retry(node) {
  if (!chat.busy(conversation)) chat.answer(conversation, node.parent);
}

async function answerNow(side) {
  try {
    await endThought(side.id);
  } catch (error) {
    toast(error.message);
  }
}

function edit(node, text) {
  if (!chat.busy(conversation)) chat.ask(conversation, text.trim(), node.pictures, node.parent);
}

function editLast() {
  [...document.querySelectorAll(".message.user [aria-label=Edit]")].at(-1)?.click();
}

async function branch(node, step) {
  const all = siblings(conversation, node);
  const other = all[all.indexOf(node) + step];
  choose(conversation, other);
  show();
  const buttons = [...document.querySelectorAll(`[data-id="${other.id}"] .pager button`)];
  (step < 0 ? buttons : buttons.reverse()).find((button) => !button.disabled)?.focus();
  await saveConversation(conversation);
}

// Conversations

async function open(id) {
  conversation = (await chat.load(id)) ?? newConversation();
  location.replace(`#${conversation.id}`);
  show();
  toEnd();
  await list();
}

async function begin() {
  closeSidebar();
  const { system, temperature, maxTokens } = conversation.settings;
  conversation = newConversation({ system, temperature, maxTokens });
  location.replace("#");
  show();
  byId("text").focus();
  await list();
}

async function rename(id, title) {
  const renamed = id === conversation.id ? conversation : await chat.load(id);
  Object.assign(renamed, { title, named: true });
  await saveConversation(renamed);
  if (renamed === conversation) byId("title").textContent = title;
  await list();
}

async function remove(id) {
  chat.forget(id);
  await deleteConversation(id);
  if (id === conversation.id) await begin();
  else await list();
}

// Settings

function switched() {
  for (const view of views.values()) view.update();
  showState();
}

function showTheme() {
  const { theme } = getSettings();
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  byId("theme").setAttribute("aria-label", dark ? "Light appearance" : "Dark appearance");
  return dark;
}

async function settings(keyWanted = "") {
  const answer = await askSettings(conversation.settings, getSettings().theme, keyWanted);
  if (!answer) return;
  conversation.settings = answer.settings;
  changeSettings({ theme: answer.theme });
  showTheme();
  if (conversation.nodes.length) await saveConversation(conversation);
  if (answer.keyChanged) await models();
}

/** Keep a model in mind, and offer what it can do. */
function offer(found) {
  const model = found.find(({ id }) => id === byId("model").value);
  changeSettings({ model: model?.id ?? "" });
  composer.offer({
    pictures: model?.capabilities?.includes("vision") ?? true,
    thinking: model?.capabilities?.includes("thinking") ?? true,
    drafts: model?.assistant !== null,
  });
}

async function models() {
  const picker = byId("model");
  try {
    const found = await listModels();
    picker.replaceChildren(...found.map(({ id }) => el("option", { value: id, title: id }, id.split("/").at(-1))));
    if (found.some(({ id }) => id === getSettings().model)) picker.value = getSettings().model;
    picker.onchange = () => offer(found);
    offer(found);
  } catch (error) {
    picker.replaceChildren(el("option", { value: "" }, "no model"));
    if (error.status === 401) settings(error.message);
    else toast(error.message);
  }
  picker.disabled = picker.options.length < 2;
}

// Keys

function key(event) {
  const modified = event.metaKey || event.ctrlKey;
  const pressed = event.key.toLowerCase();
  if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open]")) {
    if (!closeSidebar()) stop();
  } else if (modified && event.shiftKey && pressed === "o") act(begin);
  else if (modified && event.shiftKey && pressed === "d") act(() => composer.toggle("colours"));
  else if (modified && pressed === "/") act(showKeys);

  function act(what) {
    event.preventDefault();
    what();
  }
}

function listen() {
  document.addEventListener("keydown", key);
  byId("new").addEventListener("click", begin);
  byId("export-all").addEventListener("click", exportAll);
  byId("open-keys").addEventListener("click", showKeys);
  byId("open-settings").addEventListener("click", () => settings());
  byId("open-sidebar").addEventListener("click", openSidebar);
  byId("shade").addEventListener("click", closeSidebar);
  byId("to-end").addEventListener("click", toEnd);
  byId("scroll").addEventListener("scroll", () => (byId("to-end").hidden = atEnd()), { passive: true });
  byId("theme").addEventListener("click", () => {
    changeSettings({ theme: showTheme() ? "light" : "dark" });
    showTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
}

async function start() {
  listen();
  showTheme();
  byId("suggestions").replaceChildren(
    ...SUGGESTIONS.map((text) => el("li", {}, el("button", { type: "button", click: () => send(text, []) }, text))),
  );
  if (!(await lasting())) toast("This browser keeps no data: conversations are gone when the page is closed.");
  const wanted = location.hash.slice(1);
  const kept = wanted ? await chat.load(wanted) : undefined;
  if (kept) await open(kept.id);
  else await begin();
  await models();
}

start();
