// Conversations under way: what is asked of the server, what becomes of its answers.

import { AnswerReader, newSide } from "./answer.js";
import { ApiError, streamChat } from "./api.js";
import { toast } from "./dom.js";
import { getSettings, loadConversation, saveConversation } from "./store.js";
import { addNode, path, titleFrom } from "./tree.js";

const SAVING = 1000; // ms between two times that an answer under way is kept
const SEEDS = 2 ** 31;

/** The messages of a conversation before one of its nodes, as the server takes them. */
function messagesBefore(conversation, node) {
  const { system } = conversation.settings;
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const each of path(conversation)) {
    if (each === node) break;
    if (each.role === "user") messages.push({ role: "user", content: contentOf(each) });
    else if (each.sides[0].text) messages.push({ role: "assistant", content: each.sides[0].text });
  }
  return messages;
}

function contentOf({ text, pictures }) {
  if (!pictures.length) return text;
  const parts = pictures.map((url) => ({ type: "image_url", image_url: { url } }));
  return text ? [...parts, { type: "text", text }] : parts;
}

function bodyOf(conversation, node, seed) {
  const { temperature, maxTokens } = conversation.settings;
  const body = {
    model: node.model || "default",
    messages: messagesBefore(conversation, node),
    stream: true,
    stream_options: { include_usage: true },
    draft_info: true,
    chat_template_kwargs: { enable_thinking: node.thinking },
  };
  if (temperature !== null) body.temperature = temperature;
  if (maxTokens !== null) body.max_tokens = maxTokens;
  if (node.sides.length > 1) body.seed = seed;
  return body;
}

/** Answers under way, one in a conversation at most; conversations go on while others are looked at. */
export class Chat {
  /**
   * @param {function(Object, Object)} changed called with the conversation and the answer whenever it has grown
   * @param {function(Object, Object)} ended called when it has ended
   */
  constructor(changed, ended) {
    this.changed = changed;
    this.ended = ended;
    this.running = new Map(); // id of a conversation -> {conversation, abort}
  }

  /** A conversation by its id: the very one that is being answered, or the one that was kept; undefined for none. */
  async load(id) {
    const running = this.running.get(id);
    if (running) return running.conversation;
    const conversation = await loadConversation(id);
    for (const side of conversation?.nodes.flatMap((node) => node.sides ?? []) ?? []) {
      if (side.state === "running") Object.assign(side, { state: "stopped", waiting: false });
    }
    return conversation;
  }

  /** Whether a conversation is being answered. */
  busy(conversation) {
    return this.running.has(conversation.id);
  }

  /** Ask something. `parent` is the message that it follows, the last one unless told. */
  ask(conversation, text, pictures, parent = path(conversation).at(-1)?.id ?? "") {
    if (!conversation.named && !conversation.nodes.length) conversation.title = titleFrom(text);
    const question = addNode(conversation, parent, { role: "user", text, pictures });
    return this.answer(conversation, question.id);
  }

  /** Answer a question, once more if it was answered before. */
  async answer(conversation, question) {
    const { model, thinking, compare } = getSettings();
    const sides = compare ? [newSide(), newSide(true)] : [newSide()];
    if (compare) sides[1].waiting = true;
    const node = addNode(conversation, question, { role: "assistant", sides, model, thinking });
    const abort = new AbortController();
    this.running.set(conversation.id, { conversation, abort });
    conversation.changed = Date.now();
    this.changed(conversation, node);
    await this.#save(conversation);
    const body = bodyOf(conversation, node, Math.floor(Math.random() * SEEDS));
    for (const side of sides) {
      side.waiting = false;
      await this.#stream(conversation, node, side, side.plain ? { ...body, num_assistant_tokens: 0 } : body, abort.signal);
    }
    this.running.delete(conversation.id);
    conversation.changed = Date.now();
    await this.#save(conversation);
    this.ended(conversation, node);
  }

  /** Stop the answer of a conversation, if there is one under way. */
  stop(conversation) {
    this.running.get(conversation.id)?.abort.abort();
  }

  /** Stop it, and keep nothing more of it. */
  forget(id) {
    const running = this.running.get(id);
    if (!running) return;
    running.conversation.deleted = true;
    running.abort.abort();
  }

  async #save(conversation) {
    if (conversation.deleted) return;
    try {
      await saveConversation(conversation);
    } catch (error) {
      toast(`The browser does not keep this conversation: ${error.message}`);
    }
  }

  async #stream(conversation, node, side, body, signal) {
    const reader = new AnswerReader(side);
    let saved = performance.now();
    try {
      for await (const chunk of streamChat(body, signal)) {
        reader.take(chunk);
        this.changed(conversation, node);
        if (performance.now() - saved > SAVING) {
          saved = performance.now();
          await this.#save(conversation);
        }
      }
      side.state = "done";
    } catch (error) {
      side.state = signal.aborted ? "stopped" : "failed";
      if (!signal.aborted) side.error = error instanceof ApiError ? error.message : `The page failed: ${error.message}`;
      side.status = error.status;
    }
    this.changed(conversation, node);
  }
}
