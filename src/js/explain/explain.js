'use strict'

// Implements `explainError`: matches log lines against the tables of known errors.

const { invalid, formatValue } = require('../core/options.js')

/** @typedef {import('../types/errors.js').MemoryErrorCode} MemoryErrorCode */

/**
 * @template T
 * @typedef {T | ((match: RegExpExecArray) => T)} FromMatch a value, or how to make it of a match
 */

/**
 * @typedef {object} Entry
 * @property {RegExp} pattern
 * @property {number} weight
 * @property {FromMatch<MemoryErrorCode | null>} code
 * @property {FromMatch<string>} cause
 * @property {FromMatch<string>} remedy
 * @property {string} source
 */

/** @type {Entry[]} This package's messages come first, because they quote the kernel's. */
const TABLE = [...require('./memory-errors.js'), ...require('./runtime-errors.js'), ...require('./kernel-errors.js')]

/** Bounds the work of the patterns: longer lines are cut, further lines ignored. */
const MAX_LINE_LENGTH = 4096
const MAX_LINES = 10_000

/** @type {<T extends string | null>(field: FromMatch<T>, match: RegExpExecArray) => T} */
const value = (field, match) => (typeof field === 'function' ? field(match) : field)

/** @typedef {{ entry: Entry, match: RegExpExecArray }} Match */

/**
 * Finds the entry of the highest weight whose pattern matches.
 *
 * @param {string} line
 */
function bestMatch(line) {
  const text = line.slice(0, MAX_LINE_LENGTH)
  /** @type {Match | null} */
  let best = null
  for (const entry of TABLE) {
    if (best !== null && entry.weight <= best.entry.weight) continue
    const match = entry.pattern.exec(text)
    if (match !== null) best = { entry, match }
  }
  return best
}

/**
 * @param {string} line one or several lines; of several, the first with the highest weight counts
 * @returns {{cause: string, remedy: string, code: MemoryErrorCode | null} | null}
 */
function explainError(line) {
  if (typeof line !== 'string') {
    throw invalid(
      `explainError needs a log line, not ${formatValue(line)}`,
      /** @type {unknown} */ (line) instanceof Error ? 'pass error.message' : undefined,
    )
  }
  /** @type {Match | null} */
  let best = null
  for (const one of line.split(/\r?\n/, MAX_LINES)) {
    const found = bestMatch(one)
    if (found !== null && (best === null || found.entry.weight > best.entry.weight)) best = found
  }
  if (best === null) return null
  const { entry, match } = best
  return { cause: value(entry.cause, match), remedy: value(entry.remedy, match), code: value(entry.code, match) }
}

module.exports = { explainError, TABLE }
