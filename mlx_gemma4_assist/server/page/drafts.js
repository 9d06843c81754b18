// Who wrote which characters: the target (place 0), or a draft (its place in a round). Texts keep their places as
// runs [length, place], so that a thousand tokens of a plain answer are one run.

/** The place of characters of which the server said nothing. */
export const UNKNOWN = -1;

/** Drafts from here on look alike. */
export const LAST_PLACE = 5;

const MOST_SKIPPED = 24; // tokens without text of their own in an answer, such as the markers of a thought

/** Tokens that have come, whose text may still be held back. */
export class TokenQueue {
  constructor() {
    this.tokens = [];
  }

  /** @param {Array<[string, number]>} tokens [text, place] */
  push(tokens) {
    for (const [text, place] of tokens) if (text) this.tokens.push({ text, place });
  }

  /**
   * The places of the next text.
   *
   * Texts of tokens one by one differ from the text of all: markers are not shown, blanks are trimmed, a character may
   * be spread over several tokens. So tokens are skipped to the next one that fits, and what fits none takes the place
   * of the token whose turn it is.
   * @param {string} text
   * @returns {Array<[number, number]>} runs, as long as the text
   */
  runs(text) {
    const runs = [];
    let at = 0;
    while (at < text.length) {
      const [length, place] = this.#next(text.slice(at));
      addRun(runs, length, place);
      at += length;
    }
    return runs;
  }

  #next(rest) {
    const fits = this.tokens.findIndex(({ text }) => rest.startsWith(text) || text.startsWith(rest));
    if (fits >= 0 && fits <= MOST_SKIPPED) {
      this.tokens.splice(0, fits);
      return this.#take(rest);
    }
    const place = this.tokens[0]?.place ?? UNKNOWN;
    if (!this.tokens.length) return [rest.length, place];
    const later = rest.indexOf(this.tokens[0].text);
    if (later > 0) return [later, place];
    this.tokens.shift();
    return [rest.codePointAt(0) > 0xffff ? 2 : 1, place];
  }

  #take(rest) {
    const token = this.tokens[0];
    if (token.text.length <= rest.length) {
      this.tokens.shift();
      return [token.text.length, token.place];
    }
    token.text = token.text.slice(rest.length);
    return [rest.length, token.place];
  }
}

/** Another run behind the others, joined with the last one of the same place. */
export function addRun(runs, length, place) {
  const last = runs.at(-1);
  if (last && last[1] === place) last[0] += length;
  else runs.push([length, place]);
}

/**
 * The place of each UTF-16 unit of a text.
 * @param {string} text
 * @param {Array<[number, number]>} runs
 * @returns {Int16Array}
 */
export function placesOf(text, runs) {
  const places = new Int16Array(text.length).fill(UNKNOWN);
  let at = 0;
  for (const [length, place] of runs) {
    places.fill(place, at, at + length);
    at += length;
  }
  return places;
}

/**
 * How many tokens each round brought. A round's drafts come in their order, the target's own token behind them.
 * @param {Array<number>} places of all tokens
 * @returns {Array<number>}
 */
export function roundsOf(places) {
  const rounds = [];
  let before = 0;
  for (const place of places) {
    if (before === 0 || (place !== 0 && place <= before)) rounds.push(0);
    rounds[rounds.length - 1] += 1;
    before = place;
  }
  return rounds;
}

/** The class of a place, for style sheets; "" for characters that are not coloured. */
export function placeClass(place) {
  return place === UNKNOWN ? "" : `d${Math.min(place, LAST_PLACE)}`;
}

/** What a place is called. */
export function placeName(place) {
  if (place === 0) return "Gemma itself";
  const names = ["1st draft", "2nd", "3rd", "4th", "5th on"];
  return names[Math.min(place, LAST_PLACE) - 1];
}
