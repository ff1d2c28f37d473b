'use strict'

// The reader of comma-separated values. Blanks around fields do not count, except in quotes; a byte order mark and
// either line end are accepted.

const { outOfRange } = require('../core/options.js')

const [RETURN, BLANK, TAB, ZERO, X] = ['\r', ' ', '\t', '0', 'x'].map((letter) => letter.charCodeAt(0))

/**
 * Reads comma-separated values (RFC 4180) row by row. A log has millions of rows, so a field is only sliced when it is
 * read.
 */
class Rows {
  columns = 0
  /** The line at which the row begins, counted from 1. */
  line = 0
  #text
  /** The offset of the next row, and the number of lines in the current one. */
  #at
  #lines = 1
  /** The offsets of the next comma and quote, which may be rows ahead. */
  #comma = -1
  #quote = -1
  /** @type {number[]} The offsets at which fields begin. A row with quotes has its fields in `#fields`. */
  #starts = []
  /** @type {number[]} The offsets at which fields end. */
  #ends = []
  /** @type {string[] | null} */
  #fields = null
  /** @type {Set<number> | null} The columns in quotes. */
  #quotes = null

  /** @param {string} text */
  constructor(text) {
    this.#text = text
    this.#at = text.charCodeAt(0) === 0xfeff ? 1 : 0
  }

  next() {
    const [text, start] = [this.#text, this.#at]
    if (start >= text.length) return false
    this.line += this.#lines
    this.#lines = 1
    this.#fields = null
    this.#quotes = null
    const end = this.#find('\n', start)
    if (this.#quote < start) this.#quote = this.#find('"', start)
    if (this.#quote < end) return this.#quoted(start)
    const [starts, ends] = [this.#starts, this.#ends]
    let columns = 0
    starts[0] = start
    let comma = this.#comma < start ? this.#find(',', start) : this.#comma
    for (; comma < end; comma = this.#find(',', comma + 1)) {
      ends[columns++] = comma
      starts[columns] = comma + 1
    }
    this.#comma = comma
    ends[columns] = end > starts[columns] && text.charCodeAt(end - 1) === RETURN ? end - 1 : end
    this.columns = columns + 1
    this.#at = end + 1
    return true
  }

  /**
   * Finds `letter`, or the end of the text. `indexOf` is far faster than a loop over letters.
   *
   * @param {string} letter
   * @param {number} from
   */
  #find(letter, from) {
    const at = this.#text.indexOf(letter, from)
    return at < 0 ? this.#text.length : at
  }

  /**
   * Returns a field's text; undefined without such a column.
   *
   * @param {number} column
   */
  field(column) {
    if (column < 0 || column >= this.columns) return undefined
    if (this.#fields !== null) return this.#fields[column]
    const text = this.#text
    let [at, end] = [this.#starts[column], this.#ends[column]]
    while (at < end && isBlank(text.charCodeAt(at))) at++
    while (at < end && isBlank(text.charCodeAt(end - 1))) end--
    return text.slice(at, end)
  }

  /**
   * Returns a name: null without such a column, and for an empty field without quotes.
   *
   * @param {number} column
   */
  name(column) {
    return this.field(column) || (this.#quotes?.has(column) ? '' : null)
  }

  /**
   * Returns a field as a number if it is a whole one, decimal or 0x…; otherwise its text, or undefined if it is
   * empty.
   *
   * @param {number} column
   * @returns {number | string | undefined}
   */
  number(column) {
    if (this.#fields !== null || column < 0 || column >= this.columns) return numeric(this.field(column))
    const text = this.#text
    let [at, end] = [this.#starts[column], this.#ends[column]]
    while (at < end && isBlank(text.charCodeAt(at))) at++
    while (at < end && isBlank(text.charCodeAt(end - 1))) end--
    if (at === end) return undefined
    const base = end - at > 2 && text.charCodeAt(at) === ZERO && (text.charCodeAt(at + 1) | 32) === X ? 16 : 10
    let value = 0
    for (at += base === 16 ? 2 : 0; at < end; at++) {
      const digit = digitOf(text.charCodeAt(at))
      if (digit >= base) return this.field(column)
      value = value * base + digit
    }
    return value <= Number.MAX_SAFE_INTEGER ? value : this.field(column)
  }

  /** @param {number} start */
  #quoted(start) {
    const { fields, quotes, lines, end } = quotedRow(this.#text, start, this.line)
    this.#fields = fields
    this.#quotes = quotes
    this.columns = fields.length
    this.#lines = lines
    this.#at = end
    return true
  }
}

/** @param {number} letter */
const isBlank = (letter) => letter === BLANK || letter === TAB

/**
 * Returns 0 to 15 for a hexadecimal digit, 16 for any other letter.
 *
 * @param {number} letter
 */
function digitOf(letter) {
  if (letter >= ZERO && letter <= ZERO + 9) return letter - ZERO
  const small = (letter | 32) - 97
  return small >= 0 && small < 6 ? small + 10 : 16
}

/** @param {string | undefined} given */
function numeric(given) {
  const field = given?.trim()
  if (!field) return undefined
  const value = /^(0x[\da-f]+|\d+)$/i.test(field) ? Number(field) : NaN
  return value <= Number.MAX_SAFE_INTEGER ? value : field
}

const FIELD = /[ \t]*"([^"]*(?:""[^"]*)*)"[ \t]*|([^,\r\n]*)/y

/**
 * Parses a row with quoted fields, which may hold commas, quotes and line ends.
 *
 * @param {string} text
 * @param {number} start
 * @param {number} line
 */
function quotedRow(text, start, line) {
  /** @type {string[]} */
  const fields = []
  /** @type {Set<number>} */
  const quotes = new Set()
  for (let at = start; ;) {
    FIELD.lastIndex = at
    // The second alternative matches anything, if only the empty string.
    const [all, quoted, plain] = /** @type {RegExpExecArray} */ (FIELD.exec(text))
    if (plain?.trimStart().startsWith('"')) throw outOfRange(`line ${line} of the log has a quote that is not closed`)
    if (plain === undefined) quotes.add(fields.length)
    fields.push(plain?.trim() ?? quoted.replaceAll('""', '"'))
    const end = at + all.length
    if (text[end] === ',') {
      at = end + 1
      continue
    }
    const next = text.startsWith('\r\n', end) ? end + 2 : end + 1
    if (end < text.length && text[next - 1] !== '\n')
      throw outOfRange(`line ${line} of the log has text after a closing quote`)
    const lines = text.slice(start, next).split('\n').length - (text[next - 1] === '\n' ? 1 : 0)
    return { fields, quotes, lines, end: next }
  }
}

module.exports = { Rows }
