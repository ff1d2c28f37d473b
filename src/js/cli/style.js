'use strict'

// Formats text for the terminal: colours, line wrapping, tables, bars.

const { formatBytes } = require('../core/format-bytes.js')

const MAX_WIDTH = 100
const CODES = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  cyan: [36, 39],
  inverse: [7, 27],
}

/**
 * @typedef {import('./args.js').Stream} Stream
 * @typedef {Record<keyof typeof CODES, (text: string | number) => string>} Paint
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
 * Makes the functions that colour text: `paint.red('text')`.
 *
 * @param {boolean} colored
 * @returns {Paint}
 */
function painter(colored) {
  const functions = Object.entries(CODES).map(([name, [on, off]]) => [
    name,
    (/** @type {string | number} */ text) => (colored ? `\x1b[${on}m${text}\x1b[${off}m` : String(text)),
  ])
  return Object.fromEntries(functions)
}

/** @param {Stream} stream */
const widthOf = (stream) => Math.max(40, Math.min(stream.columns ?? 80, MAX_WIDTH))

const ESCAPES = /\x1b\[[\d;?]*[a-zA-Z]/g
/**
 * Counts the columns of a text; colours take none.
 *
 * @param {string} text
 */
const visible = (text) => text.replace(ESCAPES, '').length

/** @type {(text: string, width: number) => string} */
const pad = (text, width) => text + ' '.repeat(Math.max(0, width - visible(text)))
/** @type {(text: string, width: number) => string} */
const padLeft = (text, width) => ' '.repeat(Math.max(0, width - visible(text))) + text

/**
 * Cuts a text without colours to `width`.
 *
 * @type {(text: string, width: number) => string}
 */
const clip = (text, width) => (text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`)

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
    if (line !== '' && line.length + 1 + word.length > width - (lines.length === 0 ? 0 : indent)) {
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
 * Encodes JSON; bigints, which are addresses, become hexadecimal strings.
 *
 * @param {unknown} value
 */
const jsonText = (value, indent = 2) =>
  `${JSON.stringify(value, (_, of) => (typeof of === 'bigint' ? `0x${of.toString(16)}` : of), indent)}\n`

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
  visible,
  wantsColor,
  widthOf,
  wrap,
}
