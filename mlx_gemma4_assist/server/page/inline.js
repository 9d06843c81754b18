// Markdown within a paragraph, as DOM nodes. Each character remembers where in the answer it came from.

import { el } from "./dom.js";
import { UNKNOWN, placeClass } from "./drafts.js";

const SAFE_LINK = /^(https?:\/\/|mailto:)/i;
const BARE_LINK = /^https?:\/\/[^\s<>"'`]*[^\s<>"'`.,;:!?)\]}*_~]/i;
const LINK = /^\[((?:[^[\]\\]|\\.|\[[^[\]]*\])*)\]\(\s*<?([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+["'][^"']*["'])?\s*\)/;
const MATH = /^(\$\$(?!\$)[^$]+\$\$|\$(?=[^\s$])[^$\n]*[^\s$\\]\$(?!\d)|\\\([^\n]+?\\\)|\\\[[\s\S]+?\\\])/;
const EMPHASIS = { "***": ["strong", "em"], "**": ["strong"], "__": ["strong"], "*": ["em"], _: ["em"], "~~": ["del"] };

/**
 * Text, with the place in the answer's source of each of its UTF-16 units.
 * @typedef {{text: string, at: Int32Array}} Sourced
 */

/**
 * Lines as one text.
 * @param {Array<{text: string, at: number}>} lines each with the place of its beginning
 * @returns {Sourced}
 */
export function joined(lines) {
  const text = lines.map((line) => line.text).join("\n");
  const at = new Int32Array(text.length);
  let i = 0;
  for (const line of lines) {
    for (let k = 0; k <= line.text.length && i < text.length; k += 1) at[i++] = line.at + k;
  }
  return { text, at };
}

/**
 * A piece of text as it is, in spans of its draft's class. Blanks before words have no colour, so that words stay apart.
 * @param {Node} parent that takes it
 * @param {Sourced} source
 * @param {number} from
 * @param {number} to
 * @param {Int16Array} places of all of the answer
 */
export function appendText(parent, source, from, to, places) {
  for (let start = from; start < to; ) {
    const place = placeAt(start);
    let end = start + 1;
    while (end < to && placeAt(end) === place) end += 1;
    const text = source.text.slice(start, end);
    const blanks = place === UNKNOWN ? text.length : text.search(/\S|$/);
    if (blanks) parent.append(text.slice(0, blanks));
    if (blanks < text.length) parent.append(el("span", { class: placeClass(place) }, text.slice(blanks)));
    start = end;
  }

  function placeAt(i) {
    return places[source.at[i]] ?? UNKNOWN;
  }
}

/**
 * Markdown of one paragraph.
 * @param {Node} parent that takes it
 * @param {Sourced} source
 * @param {Int16Array} places of all of the answer
 */
export function appendInline(parent, source, places) {
  new Inline(source, places).range(parent, 0, source.text.length);
}

class Inline {
  constructor(source, places) {
    this.source = source;
    this.text = source.text;
    this.places = places;
  }

  plain(parent, from, to) {
    if (from < to) appendText(parent, this.source, from, to, this.places);
  }

  /** All between two places; what is no markup is text. */
  range(parent, from, to) {
    let start = from; // of text that was not appended yet
    for (let i = from; i < to; ) {
      const found = this.markup(i, to);
      if (!found) {
        i += 1;
        continue;
      }
      this.plain(parent, start, i);
      found.build(parent);
      i = start = found.end;
    }
    this.plain(parent, start, to);
  }

  markup(i, to) {
    switch (this.text[i]) {
      case "\\":
        return this.math(i, to) ?? this.escaped(i, to);
      case "`":
        return this.code(i, to);
      case "\n":
        return { end: i + 1, build: (parent) => parent.append(el("br")) };
      case "!":
        return this.text[i + 1] === "[" ? this.link(i, i + 1, to) : null;
      case "[":
        return this.link(i, i, to);
      case "<":
        return this.angle(i, to);
      case "$":
        return this.math(i, to);
      case "h":
      case "H":
        return this.bare(i, to);
      case "*":
      case "_":
      case "~":
        return this.emphasis(i, to);
      default:
        return null;
    }
  }

  escaped(i, to) {
    const next = this.text[i + 1];
    if (i + 1 >= to || !/[!-/:-@[-`{-~\n]/.test(next)) return null;
    if (next === "\n") return { end: i + 2, build: (parent) => parent.append(el("br")) };
    return { end: i + 2, build: (parent) => this.plain(parent, i + 1, i + 2) };
  }

  code(i, to) {
    const ticks = /^`+/.exec(this.text.slice(i, to))[0];
    const close = closingTicks(this.text, i + ticks.length, to, ticks.length);
    if (close < 0) return { end: i + ticks.length, build: (parent) => this.plain(parent, i, i + ticks.length) };
    let [from, end] = [i + ticks.length, close];
    if (/^ .*\S.* $/s.test(this.text.slice(from, end))) [from, end] = [from + 1, end - 1];
    return { end: close + ticks.length, build: (parent) => this.plain(child(parent, "code"), from, end) };
  }

  /** Formulas are shown as they are written; their stars and underscores mean nothing. */
  math(i, to) {
    const found = MATH.exec(this.text.slice(i, to));
    if (!found) return null;
    const end = i + found[0].length;
    return { end, build: (parent) => this.plain(child(parent, "span", { class: "math" }), i, end) };
  }

  /** A picture becomes a link, since nothing is fetched from elsewhere. */
  link(i, bracket, to) {
    const found = LINK.exec(this.text.slice(bracket, to));
    if (!found || !SAFE_LINK.test(found[2])) return null;
    const [all, label, href] = found;
    const from = bracket + 1;
    return {
      end: bracket + all.length,
      build: (parent) => this.range(anchor(parent, href), from, from + label.length),
    };
  }

  angle(i, to) {
    const rest = this.text.slice(i, to);
    const line = /^<br\s*\/?>/i.exec(rest);
    if (line) return { end: i + line[0].length, build: (parent) => parent.append(el("br")) };
    const found = /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/i.exec(rest);
    if (!found) return null;
    const end = i + found[0].length;
    return { end, build: (parent) => this.plain(anchor(parent, found[1]), i + 1, end - 1) };
  }

  bare(i, to) {
    if (/\w/.test(this.text[i - 1] ?? " ")) return null;
    const found = BARE_LINK.exec(this.text.slice(i, to));
    if (!found) return null;
    const end = i + found[0].length;
    return { end, build: (parent) => this.plain(anchor(parent, found[0]), i, end) };
  }

  emphasis(i, to) {
    const mark = this.text[i];
    const run = runLength(this.text, i, to);
    const size = mark === "~" ? 2 : Math.min(run, 3);
    const delimiter = mark.repeat(size);
    const from = i + size;
    const opens = /\S/.test(this.text[from] ?? " ") && (mark !== "_" || !/\w/.test(this.text[i - 1] ?? " "));
    const close = opens && run >= size && EMPHASIS[delimiter] ? this.closing(delimiter, from, to) : -1;
    if (close < 0) return { end: i + run, build: (parent) => this.plain(parent, i, i + run) };
    return {
      end: close + size,
      build: (parent) => {
        const inner = EMPHASIS[delimiter].reduce((outer, tag) => child(outer, tag), parent);
        this.range(inner, from, close);
      },
    };
  }

  /** Where the closing delimiter begins, or -1: behind something, and not within code or a longer mark of its kind. */
  closing(delimiter, from, to) {
    for (let i = from; i < to; ) {
      if (this.text[i] === "\\") i += 2;
      else if (this.text[i] === "`") i = this.code(i, to).end;
      else if (this.text[i] !== delimiter[0]) i += 1;
      else {
        const run = runLength(this.text, i, to);
        const fits = run === delimiter.length || run === 3;
        const close = i + run - delimiter.length;
        const ends = delimiter[0] !== "_" || !/\w/.test(this.text[i + run] ?? " ");
        if (fits && ends && close >= from && /\S/.test(this.text[i - 1])) return close;
        i += run;
      }
    }
    return -1;
  }
}

function child(parent, tag, attributes) {
  return parent.appendChild(el(tag, attributes));
}

function anchor(parent, href) {
  return child(parent, "a", { href, target: "_blank", rel: "noopener noreferrer" });
}

function runLength(text, i, to) {
  let end = i;
  while (end < to && text[end] === text[i]) end += 1;
  return end - i;
}

function closingTicks(text, from, to, count) {
  for (let i = from; i < to; i += 1) {
    if (text[i] !== "`") continue;
    const run = runLength(text, i, to);
    if (run === count) return i;
    i += run - 1;
  }
  return -1;
}
