'use strict'

// Implements `explainError`: matches log lines against the tables of known errors.

const { invalid, shown } = require('../core/options.js')

// This package's messages come first, because they quote the kernel's.
const TABLE = [...require('./memory-errors.js'), ...require('./runtime-errors.js'), ...require('./kernel-errors.js')]

/** Bounds the work of the patterns: longer lines are cut, further lines ignored. */
const MAX_LINE_LENGTH = 4096
const MAX_LINES = 10_000

const value = (field, match) => (typeof field === 'function' ? field(match) : field)

/** Finds the entry of the highest weight whose pattern matches. */
function bestMatch(line) {
  const text = line.slice(0, MAX_LINE_LENGTH)
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
 * @returns {{cause: string, remedy: string, code: string | null} | null}
 */
function explainError(line) {
  if (typeof line !== 'string') {
    throw invalid(
      `explainError needs a log line, not ${shown(line)}`,
      line instanceof Error ? 'pass error.message' : undefined,
    )
  }
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
