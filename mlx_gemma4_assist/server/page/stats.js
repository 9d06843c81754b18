// Figures of an answer: the strip below it, a picture of its rounds, the legend, and what a comparison came to.

import { el, svg } from "./dom.js";
import { LAST_PLACE, placeClass, placeName, roundsOf } from "./drafts.js";

const COLUMN = 5; // units of the picture that a round is wide, and a token high
const LEAST_TIME = 250; // ms that the browser's clock takes for a speed, as long as the server has told none
const HIGHEST = 9; // tokens of a round that are drawn

/** Tokens of an answer per second, null as long as that is not known. */
export function speed({ stats }) {
  const seen = stats.first === null ? 0 : stats.elapsed - stats.first;
  const time = stats.generation ?? (seen > LEAST_TIME ? seen : 0);
  return time > 0 && (stats.rounds ?? stats.tokens) > 1 ? (stats.tokens / time) * 1000 : null;
}

/** Tokens per round, null as long as that is not known. */
export function perRound({ stats, places }) {
  const rounds = stats.rounds ?? roundsOf(places).length;
  return rounds > 0 ? stats.tokens / rounds : null;
}

function acceptance({ stats }) {
  const drafted = (stats.accepted ?? 0) + (stats.rejected ?? 0);
  return drafted > 0 ? stats.accepted / drafted : null;
}

function number(value, digits, unit) {
  if (value === null || value === undefined) return "–";
  const shown = value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return unit ? `${shown} ${unit}` : shown;
}

function milliseconds(value) {
  if (value === null) return "–";
  return value < 1000 ? number(value, 0, "ms") : number(value / 1000, 1, "s");
}

function figures(side) {
  const { stats } = side;
  const accepted = acceptance(side);
  const rate = speed(side);
  return [
    ["tokens per round", number(perRound(side), 2), "main"],
    ["drafts accepted", accepted === null ? "–" : number(accepted * 100, 0, "%"), ""],
    ["speed", number(rate, rate !== null && rate < 10 ? 1 : 0, "tok/s"), "main"],
    ["first token", milliseconds(stats.first), ""],
    ["tokens", number(stats.tokens, 0), ""],
    ["cached", stats.prompt === undefined ? "–" : `${number(stats.cached, 0)} of ${number(stats.prompt, 0)}`, ""],
  ];
}

/**
 * The strip of an answer.
 * @param {Element} list a `dl`
 * @param {import("./answer.js").Side} side
 */
export function showFigures(list, side) {
  const shown = figures(side);
  if (list.children.length !== shown.length) {
    list.replaceChildren(...shown.map(([name, , kind]) => el("div", { class: kind }, el("dt", {}, name), el("dd"))));
  }
  shown.forEach(([, value], i) => {
    const place = list.children[i].lastChild;
    if (place.textContent !== value) place.textContent = value;
  });
}

/**
 * A picture of rounds: a column for each, a cell for each token, Gemma's own at the bottom.
 * @param {import("./answer.js").Side} side
 * @returns {Element}
 */
export function roundsPicture({ places }) {
  const rounds = roundsOf(places);
  const highest = Math.min(Math.max(1, ...rounds), HIGHEST);
  const [width, height] = [rounds.length * COLUMN, highest * COLUMN];
  const mean = rounds.length ? places.length / rounds.length : 0;
  const label = `${rounds.length} rounds, on average ${mean.toFixed(2)} tokens each, at most ${Math.max(0, ...rounds)}`;
  const picture = svg("svg", {
    class: "rounds", role: "img", "aria-label": label, viewBox: `0 0 ${width} ${height}`, width, height, preserveAspectRatio: "none",
  });
  let start = 0;
  rounds.forEach((count, column) => {
    cellsOf(places.slice(start, start + count)).slice(0, HIGHEST).forEach((place, row) => {
      const y = height - (row + 1) * COLUMN;
      picture.append(svg("rect", { class: placeClass(place), x: column * COLUMN, y, width: COLUMN - 1, height: COLUMN - 1 }));
    });
    start += count;
  });
  return picture;
}

function cellsOf(round) {
  return [...round].sort((one, other) => one - other);
}

/**
 * What the colours mean, and how many tokens of an answer each stands for.
 * @param {Element} place
 * @param {?import("./answer.js").Side} side
 */
export function showLegend(place, side) {
  const counts = new Array(LAST_PLACE + 1).fill(0);
  for (const each of side?.places ?? []) counts[Math.min(each, LAST_PLACE)] += 1;
  const entries = counts.map((count, each) => {
    const sample = el("span", { class: `sample ${placeClass(each)}` }, placeName(each));
    return el("li", {}, sample, side ? el("span", { class: "count" }, number(count, 0)) : null);
  });
  place.replaceChildren(el("span", { class: "who", id: "legend-title" }, "Who wrote it"), el("ul", {}, ...entries));
}

/**
 * What a comparison came to, "" before both sides are done.
 * @param {Array<import("./answer.js").Side>} sides
 */
export function verdict(sides) {
  if (sides.length < 2 || sides.some((side) => side.state !== "done")) return "";
  const [assisted, plain] = sides;
  const [fast, slow] = [speed(assisted), speed(plain)];
  const times = fast && slow ? `${(fast / slow).toFixed(2)} times the speed with the assistant. ` : "";
  if (assisted.text === plain.text) return `${times}Both texts are the same.`;
  return `${times}The texts differ: drawn at random from the same distribution, or parted at a near tie.`;
}
