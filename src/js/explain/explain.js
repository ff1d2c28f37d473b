'use strict'

// What a log line means: the tables of patterns, the most telling line of a text first.

const { invalid, shown } = require('../core/options.js')

// Own messages quote the kernel's words, so they are looked at first.
const TABLE = [...require('./memory-errors.js'), ...require('./runtime-errors.js'), ...require('./kernel-errors.js')]

/** Nobody's log line is longer; patterns need not look at megabytes. */
const LONGEST_LINE = 4096
const MOST_LINES = 10_000

const value = (field, match) => (typeof field === 'function' ? field(match) : field)

function entryOf(line) {
  const text = line.slice(0, LONGEST_LINE)
  let best = null
  for (const entry of TABLE) {
    if (best !== null && entry.weight <= best.entry.weight) continue
    const match = entry.pattern.exec(text)
    if (match !== null) best = { entry, match }
  }
  return best
}

/**
 * @param {string} line one line, or several: then the most telling one counts, the first of equals
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
  for (const one of line.split(/\r?\n/, MOST_LINES)) {
    const found = entryOf(one)
    if (found !== null && (best === null || found.entry.weight > best.entry.weight)) best = found
  }
  if (best === null) return null
  const { entry, match } = best
  return { cause: value(entry.cause, match), remedy: value(entry.remedy, match), code: value(entry.code, match) }
}

module.exports = { explainError, TABLE }
