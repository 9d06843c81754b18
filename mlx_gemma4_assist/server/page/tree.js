// A conversation is a tree: what is edited or asked again is kept as another branch beside the first.

/**
 * @typedef {Object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {boolean} named whether the user chose the title
 * @property {number} changed milliseconds since 1970
 * @property {{system: string, temperature: ?number, maxTokens: ?number}} settings
 * @property {Array<Object>} nodes messages, in the order of their making; each has `id`, `parent` ("" for the first), `role`
 * @property {Object<string, string>} chosen the id of the child that is shown, by its parent's id
 */

/** A name for anything; `crypto.randomUUID` needs a secure origin, which a server in the local network is not. */
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {Object} settings of the conversation
 * @returns {Conversation} without messages
 */
export function newConversation(settings = {}) {
  return {
    id: newId(),
    title: "New conversation",
    named: false,
    changed: Date.now(),
    settings: { system: "", temperature: null, maxTokens: null, ...settings },
    nodes: [],
    chosen: {},
  };
}

/** The branches that part at a message, in the order of their making. */
export function siblings(conversation, node) {
  return conversation.nodes.filter((other) => other.parent === node.parent);
}

/** The messages that are shown, from the first on. */
export function path(conversation) {
  const shown = [];
  for (let at = ""; ; ) {
    const children = conversation.nodes.filter((node) => node.parent === at);
    if (!children.length) return shown;
    const next = children.find((node) => node.id === conversation.chosen[at]) ?? children.at(-1);
    shown.push(next);
    at = next.id;
  }
}

/** Show the branch of this message. */
export function choose(conversation, node) {
  conversation.chosen[node.parent] = node.id;
}

/**
 * A new message, shown at once.
 * @param {Conversation} conversation
 * @param {string} parent its id, "" for none
 * @param {Object} content what it has beside its id and parent
 * @returns {Object} the message
 */
export function addNode(conversation, parent, content) {
  const node = { id: newId(), parent, at: Date.now(), ...content };
  conversation.nodes.push(node);
  choose(conversation, node);
  return node;
}

/** A title from the first words that were said. */
export function titleFrom(text) {
  const line = text.trim().split("\n")[0].replace(/\s+/g, " ");
  if (!line) return "A picture";
  return line.length <= 48 ? line : `${line.slice(0, 47).replace(/\s+\S*$/, "")}…`;
}

/** The messages that are shown, as Markdown. */
export function asMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  for (const node of path(conversation)) {
    if (node.role === "user") {
      const pictures = node.pictures.length ? `*${node.pictures.length} pictures*\n\n` : "";
      parts.push(`## You\n\n${pictures}${node.text}`);
    } else {
      parts.push(`## Gemma\n\n${node.sides[0].text}`);
    }
  }
  return `${parts.join("\n\n")}\n`;
}
