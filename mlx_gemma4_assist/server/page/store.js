// Conversations in IndexedDB, settings in localStorage; where the browser keeps neither, both last as long as the page.

const NAME = "mlx_gemma4_assist";
const HEADS = "heads"; // what the list shows
const BODIES = "bodies"; // all of a conversation, its pictures too

const memory = new Map();
let opening = null;

function database() {
  opening ??= new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open(NAME, 1);
    } catch {
      resolve(null);
      return;
    }
    request.onupgradeneeded = () => {
      for (const name of [HEADS, BODIES]) request.result.createObjectStore(name, { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  });
  return opening;
}

async function transaction(mode, work) {
  const db = await database();
  if (!db) return undefined;
  return new Promise((resolve, reject) => {
    const made = db.transaction([HEADS, BODIES], mode);
    const request = work(made.objectStore(HEADS), made.objectStore(BODIES));
    made.oncomplete = () => resolve(request.result);
    made.onabort = () => reject(made.error);
  });
}

/** Whether conversations outlive the page. */
export async function lasting() {
  return (await database()) !== null;
}

/**
 * All conversations, the newest first.
 * @returns {Promise<Array<{id: string, title: string, changed: number}>>}
 */
export async function listConversations() {
  const heads = (await transaction("readonly", (store) => store.getAll())) ?? [...memory.values()];
  return heads.sort((one, other) => other.changed - one.changed);
}

/** A conversation, undefined if there is none. */
export async function loadConversation(id) {
  return (await lasting()) ? transaction("readonly", (_, store) => store.get(id)) : memory.get(id);
}

/** Keep a conversation as it is now. */
export async function saveConversation(conversation) {
  if (!(await lasting())) {
    memory.set(conversation.id, structuredClone(conversation));
    return;
  }
  const { id, title, changed } = conversation;
  await transaction("readwrite", (heads, bodies) => {
    bodies.put(conversation);
    return heads.put({ id, title, changed });
  });
}

/** Forget a conversation. */
export async function deleteConversation(id) {
  memory.delete(id);
  await transaction("readwrite", (heads, bodies) => {
    bodies.delete(id);
    return heads.delete(id);
  });
}

const DEFAULTS = { theme: "", thinking: false, colours: false, compare: false, model: "" };
let settings = null;

/** What this browser's user has chosen. */
export function getSettings() {
  if (!settings) {
    try {
      settings = { ...DEFAULTS, ...JSON.parse(localStorage.getItem("settings") ?? "{}") };
    } catch {
      settings = { ...DEFAULTS };
    }
  }
  return settings;
}

/** Change some of it. */
export function changeSettings(changes) {
  Object.assign(getSettings(), changes);
  try {
    localStorage.setItem("settings", JSON.stringify(settings));
  } catch {
    // It lasts as long as the page.
  }
}
