// An answer as it comes: its text, its thoughts, who wrote what, and figures.

import { TokenQueue, addRun } from "./drafts.js";

/**
 * One answer; a message has two of them where plain decoding was asked for too.
 * @typedef {Object} Side
 * @property {boolean} plain whether it was made without drafts
 * @property {string} id by which the server knows it
 * @property {"running"|"done"|"stopped"|"failed"} state
 * @property {string} text
 * @property {string} thought
 * @property {Array<[number, number]>} runs of the text, see drafts.js
 * @property {Array<[number, number]>} thoughtRuns
 * @property {Array<number>} places of all tokens, in order
 * @property {string} finish OpenAI's `finish_reason`
 * @property {string} error a sentence, "" for none
 * @property {?[number, number]} reading tokens of the prompt that were read, and that are to be
 * @property {Object} stats `tokens`, `first` and `elapsed` in ms, and from the last chunk `prompt`, `cached`,
 *     `accepted`, `rejected`, `rounds`, `generation` in ms
 */

/** @returns {Side} */
export function newSide(plain = false) {
  return {
    plain,
    id: "",
    state: "running",
    text: "",
    thought: "",
    runs: [],
    thoughtRuns: [],
    places: [],
    finish: "",
    error: "",
    reading: null,
    stats: { tokens: 0, first: null, elapsed: 0 },
  };
}

/** Reads the chunks of one answer into its side. */
export class AnswerReader {
  /** @param {Side} side */
  constructor(side) {
    this.side = side;
    this.queue = new TokenQueue();
    this.started = performance.now();
  }

  /** @param {Object} chunk of OpenAI's shape, perhaps with `drafts` and `timings` beside it */
  take(chunk) {
    const { stats } = this.side;
    this.side.id = chunk.id ?? "";
    const choice = chunk.choices?.[0];
    const drafts = chunk.drafts ?? [];
    this.queue.push(drafts);
    this.side.places.push(...drafts.map(([, place]) => place));
    if (chunk.prompt_progress) this.side.reading = [chunk.prompt_progress.processed, chunk.prompt_progress.total];
    this.#add("thought", "thoughtRuns", choice?.delta?.reasoning_content);
    this.#add("text", "runs", choice?.delta?.content);
    if (choice?.finish_reason) this.side.finish = choice.finish_reason;
    stats.tokens = Math.max(stats.tokens, this.side.places.length);
    if (stats.first !== null && (drafts.length || choice?.delta?.content)) stats.elapsed = this.#clock();
    if (chunk.usage) this.#usage(chunk.usage);
    if (chunk.timings) this.#timings(chunk.timings);
  }

  #clock() {
    return performance.now() - this.started;
  }

  #add(field, runs, text) {
    if (!text) return;
    if (this.side.stats.first === null) this.side.stats.first = this.#clock();
    this.side[field] += text;
    for (const [length, place] of this.queue.runs(text)) addRun(this.side[runs], length, place);
  }

  #usage(usage) {
    const completion = usage.completion_tokens_details ?? {};
    Object.assign(this.side.stats, {
      tokens: usage.completion_tokens,
      prompt: usage.prompt_tokens,
      cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
      accepted: completion.accepted_prediction_tokens ?? 0,
      rejected: completion.rejected_prediction_tokens ?? 0,
    });
  }

  #timings(timings) {
    if (timings.predicted_ms) this.side.stats.generation = timings.predicted_ms;
    if (timings.rounds) this.side.stats.rounds = timings.rounds;
  }
}
