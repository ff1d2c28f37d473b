'use strict'

// Selects the largest entries of a list that may be long, in turns of the event loop: a sort would be one turn.

const { slices } = require('../core/turns.js')

/**
 * Returns the `most` largest entries, in the order of the list; all of them if there are no more.
 *
 * @template {{ size: number }} T
 * @param {T[]} list
 * @param {number} most
 * @returns {Promise<T[]>}
 */
async function largest(list, most) {
  if (list.length <= most) return list
  // Finds the largest size that `most` entries reach. Entries larger than that are fewer.
  let [low, high] = [0, Number.MAX_SAFE_INTEGER]
  while (low < high) {
    const middle = low + Math.ceil((high - low) / 2)
    let reached = 0
    for await (const slice of slices(list, LIGHT)) for (const { size } of slice) if (size >= middle) reached++
    if (reached >= most) low = middle
    else high = middle - 1
  }
  /** @type {T[]} */
  const found = []
  let above = 0
  for await (const slice of slices(list, LIGHT)) for (const { size } of slice) if (size > low) above++
  let equal = most - above
  for await (const slice of slices(list)) {
    for (const entry of slice) if (entry.size > low || (entry.size === low && equal-- > 0)) found.push(entry)
  }
  return found
}

/** A comparison counts for a tenth of an entry. */
const LIGHT = 0.1

module.exports = { largest }
