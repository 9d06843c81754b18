// Markdown in blocks: what models write, as DOM nodes. HTML in it is text.

import { copyButton } from "./clipboard.js";
import { el } from "./dom.js";
import { placesOf } from "./drafts.js";
import { appendInline, appendText, joined } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(?=\S)/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3}(?:[-*+]|(\d{1,9})[.)]))(\s+|$)/;
const DELIMITERS = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const MOST_NESTED = 12;

/**
 * Show an answer. What has not changed since the last time keeps its nodes, so that a long answer can stream and be
 * selected from.
 * @param {Element} container
 * @param {string} text
 * @param {Array<[number, number]>} runs who wrote which characters, see drafts.js
 */
export function renderMarkdown(container, text, runs = []) {
  const places = placesOf(text, runs);
  const blocks = parse(linesOf(text), 0);
  const shown = container.shownBlocks ?? [];
  let same = 0;
  while (same < blocks.length - 1 && same < shown.length && shown[same] === keyOf(text, blocks[same])) same += 1;
  while (container.childNodes.length > same) container.lastChild.remove();
  for (const block of blocks.slice(same)) container.append(build(block, places, 0));
  container.shownBlocks = blocks.map((block) => keyOf(text, block));
}

function keyOf(text, block) {
  return `${block.type} ${block.from} ${text.slice(block.from, block.to)}`;
}

function linesOf(text) {
  const lines = [];
  let at = 0;
  for (const line of text.split("\n")) {
    lines.push({ text: line.replace(/\r$/, ""), at });
    at += line.length + 1;
  }
  return lines;
}

function cut(line, count) {
  return { text: line.text.slice(count), at: line.at + Math.min(count, line.text.length) };
}

function blank(line) {
  return !line.text.trim();
}

/** Blocks of lines; each has its type and where in the text it lies. */
function parse(lines, depth) {
  const blocks = [];
  for (let i = 0; i < lines.length; ) {
    if (blank(lines[i])) {
      i += 1;
      continue;
    }
    const [block, next] = blockAt(lines, i, depth);
    const last = lines[next - 1];
    blocks.push({ ...block, from: lines[i].at, to: last.at + last.text.length });
    i = next;
  }
  return blocks;
}

function blockAt(lines, i, depth) {
  const { text } = lines[i];
  const nested = depth < MOST_NESTED;
  if (FENCE.test(text)) return code(lines, i);
  if (HEADING.test(text)) return heading(lines, i);
  if (RULE.test(text)) return [{ type: "rule" }, i + 1];
  if (nested && QUOTE.test(text)) return quote(lines, i, depth);
  if (nested && ITEM.test(text)) return list(lines, i, depth);
  if (tableAt(lines, i)) return table(lines, i);
  return paragraph(lines, i);
}

function code(lines, i) {
  const [, fence, language] = FENCE.exec(lines[i].text);
  const indent = lines[i].text.search(/\S/);
  const close = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}\\s*$`);
  const content = [];
  let next = i + 1;
  for (; next < lines.length && !close.test(lines[next].text); next += 1) {
    content.push(cut(lines[next], Math.min(indent, lines[next].text.search(/\S|$/))));
  }
  return [{ type: "code", language, lines: content }, Math.min(next + 1, lines.length)];
}

function heading(lines, i) {
  const [all, marks] = HEADING.exec(lines[i].text);
  const line = cut(lines[i], all.length);
  return [{ type: "heading", level: marks.length, lines: [{ ...line, text: line.text.replace(/\s+#+\s*$/, "") }] }, i + 1];
}

function quote(lines, i, depth) {
  let next = i;
  const content = [];
  for (; next < lines.length && QUOTE.test(lines[next].text); next += 1) {
    content.push(cut(lines[next], QUOTE.exec(lines[next].text)[0].length));
  }
  return [{ type: "quote", blocks: parse(content, depth + 1) }, next];
}

function list(lines, i, depth) {
  const [, marker, number] = ITEM.exec(lines[i].text);
  const kind = number === undefined ? marker.trim() : "number";
  const items = [];
  let next = i;
  while (next < lines.length) {
    const found = ITEM.exec(lines[next].text);
    if (!found || RULE.test(lines[next].text)) break;
    if ((found[2] === undefined ? found[1].trim() : "number") !== kind) break;
    const [content, behind] = itemAt(lines, next, found);
    items.push({ loose: content.slice(0, -1).some(blank), blocks: parse(content, depth + 1) });
    next = behind;
    let ahead = next; // blank lines between items
    while (ahead < lines.length && blank(lines[ahead])) ahead += 1;
    if (ahead < lines.length && ITEM.test(lines[ahead].text)) next = ahead;
  }
  return [{ type: "list", ordered: kind === "number", start: Number(number), items }, next];
}

/** The lines of an item: those that are indented like its text, and those that go on with its paragraph. */
function itemAt(lines, i, found) {
  const width = found[1].length + (found[3].length > 4 ? 1 : Math.max(found[3].length, 1));
  const least = Math.min(width, found[1].search(/\S/) + 2);
  const content = [cut(lines[i], width)];
  let next = i + 1;
  for (; next < lines.length; next += 1) {
    const { text } = lines[next];
    const indent = text.search(/\S|$/);
    if (blank(lines[next])) {
      const after = lines.slice(next).find((line) => !blank(line));
      if (!after || after.text.search(/\S/) < least) break;
      content.push(cut(lines[next], text.length));
    } else if (indent >= least) content.push(cut(lines[next], Math.min(indent, width)));
    else if (blank(lines[next - 1]) || ITEM.test(text) || begins(lines, next)) break;
    else content.push(lines[next]);
  }
  return [content, next];
}

function tableAt(lines, i) {
  if (i + 1 >= lines.length || !lines[i].text.includes("|") || !DELIMITERS.test(lines[i + 1].text)) return false;
  return lines[i + 1].text.includes("-") && cells(lines[i]).length === cells(lines[i + 1]).length;
}

function table(lines, i) {
  const align = cells(lines[i + 1]).map(({ text }) => (text.endsWith(":") ? (text.startsWith(":") ? "center" : "right") : ""));
  let next = i + 2;
  while (next < lines.length && !blank(lines[next]) && lines[next].text.includes("|")) next += 1;
  return [{ type: "table", align, head: cells(lines[i]), rows: lines.slice(i + 2, next).map(cells) }, next];
}

/** The cells of a row, each as a line; bars that are escaped or in code part nothing. */
function cells(line) {
  const found = [];
  const pieces = /(?:`[^`]*`|\\.|[^|\\`]|[`\\])*/g;
  const lead = /^\s*\|?/.exec(line.text)[0].length;
  const end = line.text.replace(/\|?\s*$/, "").length;
  for (let at = lead; at <= end; ) {
    pieces.lastIndex = at;
    const stop = Math.min(at + pieces.exec(line.text)[0].length, Math.max(end, at));
    const piece = line.text.slice(at, stop);
    found.push({ text: piece.trim(), at: line.at + at + piece.search(/\S|$/) });
    at = stop + 1;
  }
  return found;
}

function paragraph(lines, i) {
  let next = i + 1;
  while (next < lines.length && !blank(lines[next]) && !begins(lines, next)) next += 1;
  const content = lines.slice(i, next).map((line) => cut(line, line.text.search(/\S/)));
  return [{ type: "paragraph", lines: content.map((line) => ({ ...line, text: line.text.trimEnd() })) }, next];
}

/** Whether a line ends the paragraph before it. */
function begins(lines, i) {
  const { text } = lines[i];
  if ([FENCE, HEADING, RULE, QUOTE].some((pattern) => pattern.test(text)) || tableAt(lines, i)) return true;
  const item = ITEM.exec(text);
  return Boolean(item && item[3] && (item[2] === undefined || item[2] === "1"));
}

function build(block, places, depth) {
  const inner = (blocks) => blocks.map((each) => build(each, places, depth + 1));
  switch (block.type) {
    case "code":
      return codeBlock(block, places);
    case "heading":
      return inline(el(`h${Math.min(block.level + 3, 6)}`, { class: `level${block.level}` }), block.lines, places);
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, ...inner(block.blocks));
    case "list":
      return listBlock(block, places, inner);
    case "table":
      return tableBlock(block, places);
    default:
      return inline(el("p"), block.lines, places);
  }
}

function inline(node, lines, places) {
  appendInline(node, joined(lines), places);
  return node;
}

function codeBlock({ language, lines }, places) {
  const source = joined(lines);
  const content = el("code");
  appendText(content, source, 0, source.text.length, places);
  return el(
    "div",
    { class: "code" },
    el("div", { class: "bar" }, el("span", {}, language || "text"), copyButton(() => source.text)),
    el("pre", { tabindex: "0", role: "region", "aria-label": language ? `Code, ${language}` : "Code" }, content),
  );
}

function listBlock({ ordered, start, items }, places, inner) {
  const loose = items.some((item) => item.loose);
  const entries = items.map(({ blocks }) => {
    const [first, ...rest] = blocks;
    if (loose || first?.type !== "paragraph") return el("li", {}, ...inner(blocks));
    const entry = inline(el("li"), first.lines, places);
    entry.append(...inner(rest));
    return entry;
  });
  return el(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? start : null }, ...entries);
}

function tableBlock({ align, head, rows }, places) {
  const cell = (tag, lines, k) => inline(el(tag, { class: align[k] || null, scope: tag === "th" ? "col" : null }), lines, places);
  const row = (tag, line) => el("tr", {}, ...head.map((_, k) => cell(tag, line.slice(k, k + 1), k)));
  return el(
    "div",
    { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
    el("table", {}, el("thead", {}, row("th", head)), el("tbody", {}, ...rows.map((line) => row("td", line)))),
  );
}
