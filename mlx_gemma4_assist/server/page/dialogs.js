// Questions to the user, in dialogs that hold the focus and close by Esc.

import { apiKey, setApiKey } from "./api.js";
import { byId } from "./dom.js";

function shown(dialog) {
  dialog.returnValue = "";
  const close = dialog.querySelector(".close");
  if (close) close.onclick = () => dialog.close();
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true }));
}

/**
 * Ask for a name, or whether something is meant.
 * @param {{title: string, ok: string, value?: string, note?: string}} question without a value there is no field
 * @returns {Promise<?string>} what was typed, "" without a field; null if the user would rather not
 */
export async function ask({ title, ok, value, note = "" }) {
  const field = byId("ask-value");
  byId("ask-title").textContent = title;
  byId("ask-ok").textContent = ok;
  byId("ask-field").hidden = value === undefined;
  byId("ask-note").textContent = note;
  byId("ask-note").hidden = !note;
  field.value = value ?? "";
  queueMicrotask(() => field.select());
  return (await shown(byId("ask"))) ? field.value : null;
}

/** Show the shortcuts. */
export async function showKeys() {
  if (!byId("keys").open) await shown(byId("keys"));
}

/**
 * Let the user change what holds for a conversation, and for this browser.
 * @param {{system: string, temperature: ?number, maxTokens: ?number}} settings of the conversation
 * @param {string} theme "", "light" or "dark"
 * @param {string} keyWanted why a key is asked for, "" if it is not
 * @returns {Promise<?{settings: Object, theme: string, keyChanged: boolean}>} null if nothing was to be changed
 */
export async function askSettings(settings, theme, keyWanted) {
  byId("settings-reason").textContent = keyWanted;
  byId("settings-reason").hidden = !keyWanted;
  byId("key").autofocus = Boolean(keyWanted);
  byId("system").value = settings.system;
  byId("temperature").value = settings.temperature ?? "";
  byId("max-tokens").value = settings.maxTokens ?? "";
  byId("appearance").value = theme;
  byId("key").value = apiKey();
  if (!(await shown(byId("settings")))) return null;
  const key = byId("key").value.trim();
  const keyChanged = key !== apiKey();
  setApiKey(key);
  return {
    settings: { system: byId("system").value.trim(), temperature: numberOf("temperature"), maxTokens: numberOf("max-tokens") },
    theme: byId("appearance").value,
    keyChanged,
  };
}

function numberOf(id) {
  const value = byId(id).valueAsNumber;
  return Number.isNaN(value) ? null : value;
}
