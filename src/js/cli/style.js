'use strict'

// Formats text for the terminal: colours, line wrapping, tables, bars.

const { randomBytes } = require('node:crypto')
// `styleText` is in Node 20.12, without a warning, and stable since 22.13.
// eslint-disable-next-line n/no-unsupported-features/node-builtins
const { stripVTControlCharacters, styleText } = require('node:util')
const { formatBytes } = require('../core/format-bytes.js')
const { hexAddresses } = require('../core/json.js')

const MAX_WIDTH = 100
/** @type {['bold', 'dim', 'red', 'green', 'yellow', 'cyan', 'inverse']} */
const STYLES = ['bold', 'dim', 'red', 'green', 'yellow', 'cyan', 'inverse']
/** The escapes that begin and end each style. */
const ESCAPES = STYLES.flatMap((name) => styleText(name, '\0', { validateStream: false }).split('\0'))
/**
 * Stands before each mark of this process. A mark is what `painter` writes for the begin or the end of a style, until
 * `styled`: noncharacters of Unicode, which take no column. Text from elsewhere can hold those too, but not this word.
 */
const MARK = [...randomBytes(8)].map((byte) => String.fromCharCode(0xfde0 + (byte % 16))).join('')
/** The last character of the first mark. */
const MARKS = 0xfdd0
const EVERY_MARK = new RegExp(`${MARK}([\\ufdd0-\\ufddd])`, 'g')

/**
 * @typedef {import('./args.js').Stream} Stream
 * @typedef {Record<(typeof STYLES)[number], (text: string | number) => string>} Paint
 */

/**
 * Whether to colour output to `stream`: decided by FORCE_COLOR, then NO_COLOR, then whether it is a terminal.
 *
 * @param {Stream} stream
 * @param {Record<string, string | undefined>} env
 */
function wantsColor(stream, env) {
  if (env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== '')
    return env.FORCE_COLOR !== '0' && env.FORCE_COLOR !== 'false'
  if (env.NO_COLOR !== undefined && env.NO_COLOR !== '') return false
  return stream.isTTY === true && env.TERM !== 'dumb'
}

/**
 * Makes the functions that colour text: `paint.red('text')`. The result holds marks until `styled`.
 *
 * @param {boolean} colored
 * @returns {Paint}
 */
function painter(colored) {
  const functions = STYLES.map((name, at) => {
    const [on, off] = [MARKS + 2 * at, MARKS + 2 * at + 1].map((code) =>
      colored ? MARK + String.fromCharCode(code) : '',
    )
    return [name, (/** @type {string | number} */ text) => `${on}${text}${off}`]
  })
  return Object.fromEntries(functions)
}

/**
 * Removes escapes for the terminal, which a name, a tag or a line of a log may hold, and replaces other control
 * characters.
 *
 * @param {string} text
 */
const plain = (text) =>
  stripVTControlCharacters(text).replace(/[\x00-\x09\x0b-\x1f\x7f-\x9f]/g, (of) => (of === '\t' ? ' ' : '�'))

/**
 * Makes text ready for a terminal: without control characters, and with the escapes of `painter` and no others.
 *
 * @param {string} text
 */
const styled = (text) =>
  plain(text).replace(EVERY_MARK, (_, /** @type {string} */ last) => ESCAPES[last.charCodeAt(0) - MARKS])

/** @param {Stream} stream */
const widthOf = (stream) => Math.max(40, Math.min(stream.columns ?? 80, MAX_WIDTH))

/** Characters of two columns: East Asian wide and fullwidth ones, and emoji. */
const WIDE = new RegExp(
  '[\\p{Script=Han}\\p{Script=Hangul}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Emoji_Presentation}' +
    '\\u3000-\\u303e\\uff01-\\uff60\\uffe0-\\uffe6]',
  'u',
)
/** Characters without a column of their own, and the marks of `painter`. */
const NARROW = /[\p{M}\p{Cf}\ufdd0-\ufdef]/u

/** @param {string} character */
const columnsOf = (character) =>
  character >= ' ' && character <= '~' ? 1 : NARROW.test(character) ? 0 : WIDE.test(character) ? 2 : 1

/**
 * Counts the columns of a text; colours take none.
 *
 * @param {string} text
 */
const visible = (text) => Array.from(text).reduce((sum, character) => sum + columnsOf(character), 0)

/** @type {(text: string, width: number) => string} */
const pad = (text, width) => text + ' '.repeat(Math.max(0, width - visible(text)))
/** @type {(text: string, width: number) => string} */
const padLeft = (text, width) => ' '.repeat(Math.max(0, width - visible(text))) + text

/**
 * Cuts a text to one line of `width` columns; colours stay.
 *
 * @param {string} lines
 * @param {number} width
 */
function clip(lines, width) {
  // A name may hold the ends of lines, which would shift the rows below it.
  const text = lines.replace(/\n/g, ' ')
  if (visible(text) <= width) return text
  let [cut, room] = ['', Math.max(0, width - 1)]
  let full = false
  for (const character of text) {
    const columns = columnsOf(character)
    if (columns > 0 && !full && columns > room) {
      full = true
      if (width > 0) cut += '…'
    }
    // After the end only the marks follow, which end the styles.
    if (columns === 0 || !full) cut += character
    if (!full) room -= columns
  }
  return cut
}

/**
 * Wraps a text to lines of at most `width`; lines after the first are indented. Words that are too long stay whole.
 *
 * @param {string} text
 * @param {number} width
 */
function wrap(text, width, indent = 0) {
  const lines = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && visible(line) + 1 + visible(word) > width - (lines.length === 0 ? 0 : indent)) {
      lines.push(line)
      line = word
    } else {
      line = line === '' ? word : `${line} ${word}`
    }
  }
  lines.push(line)
  return lines.map((each, at) => (at === 0 ? each : ' '.repeat(indent) + each))
}

/**
 * Aligns rows in columns: the first `left` columns to the left, the others to the right.
 *
 * @param {string[][]} rows
 */
function columns(rows, { left = 1, gap = 2 } = {}) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => visible(row[column]))))
  return rows.map((row) =>
    row
      .map((cell, column) => (column < left ? pad(cell, widths[column]) : padLeft(cell, widths[column])))
      .join(' '.repeat(gap))
      .trimEnd(),
  )
}

/**
 * Draws a share from 0 to 1 as a bar.
 *
 * @param {number} share
 * @param {number} width
 */
function bar(share, width) {
  const filled = Math.max(0, Math.min(width, Math.round(share * width)))
  return '█'.repeat(filled) + '░'.repeat(width - filled)
}

/**
 * Formats bytes; a dash if they are unknown.
 *
 * @param {number | null | undefined} count
 */
const bytes = (count) => (count === null || count === undefined ? '–' : formatBytes(count).replace(/ bytes?$/, ' B'))

/**
 * Formats 1234567 as "1,234,567".
 *
 * @param {number} number
 */
const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ',')

/**
 * Encodes JSON; bigints, which are addresses, become hexadecimal strings. Control characters that JSON allows are
 * escaped, since terminals obey them.
 *
 * @param {unknown} value
 */
const jsonText = (value, indent = 2) =>
  `${JSON.stringify(value, hexAddresses, indent).replace(
    /[\x7f-\x9f]/g,
    (of) => `\\u${of.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )}\n`

module.exports = {
  bar,
  bytes,
  clip,
  columns,
  grouped,
  jsonText,
  pad,
  padLeft,
  painter,
  plain,
  styled,
  visible,
  wantsColor,
  widthOf,
  wrap,
}
