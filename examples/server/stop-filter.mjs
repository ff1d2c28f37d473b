/** Ends a text before the first of its stop texts, which may come in pieces. */
export class StopFilter {
  #stops
  #held = ''

  /** @param {string[]} stops */
  constructor(stops) {
    this.#stops = stops
  }

  /**
   * Returns the text that is certain by now, and whether a stop text follows it.
   *
   * @param {string} text
   */
  push(text) {
    const held = this.#held + text
    const places = this.#stops.map((stop) => held.indexOf(stop)).filter((at) => at !== -1)
    if (places.length > 0) {
      this.#held = ''
      this.#stops = []
      return { text: held.slice(0, Math.min(...places)), stopped: true }
    }
    const keep = Math.max(0, ...this.#stops.map((stop) => overlap(held, stop)))
    this.#held = held.slice(held.length - keep)
    return { text: held.slice(0, held.length - keep), stopped: false }
  }

  /** Returns the text that was held back, at the end. */
  rest() {
    return this.#held
  }
}

/** The length of the longest end of `text` that is a beginning of `stop`. */
function overlap(text, stop) {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--)
    if (stop.startsWith(text.slice(text.length - length))) return length
  return 0
}
