'use strict'

// Long lists in short turns of the event loop: between two slices of a list, timers, requests and immediates run.

const { setImmediate } = require('./runtime.js')

/** The most entries that are handled in one turn. An entry takes microseconds. */
const ENTRIES = 500

/** Entries that the current turn may still handle, of all lists. */
let left = ENTRIES

/** Ends the current turn. */
async function nextTurn() {
  await new Promise((resolve) => setImmediate(() => resolve(undefined)))
  left = ENTRIES
}

/**
 * Yields a list in slices of as many entries as the current turn may handle.
 *
 * @template T
 * @param {{ length: number, slice(from: number, to: number): T[] }} list
 * @param {number} [weight] how many entries each one counts for
 * @returns {AsyncGenerator<T[]>}
 */
async function* slices(list, weight = 1) {
  for (let at = 0; at < list.length; ) {
    if (left < weight) await nextTurn()
    const end = Math.min(list.length, at + Math.floor(left / weight))
    left -= (end - at) * weight
    yield list.slice(at, end)
    at = end
  }
}

module.exports = { slices }
