'use strict'

// Implements `planArena`: checks the buffers, and says what is wrong with one. The native part places them.

const native = require('../core/binding.js')
const { check, formatValue, integer, invalid, kinds, outOfRange } = require('../core/options.js')

/** The most buffers of one plan: the native part's limit, told before all of them are checked. */
const MAX_BUFFERS = 20_000
/** The most bytes of all buffers and alignments: sums below are exact. */
const MAX_BYTES = Number.MAX_SAFE_INTEGER
/** How long the search may go on by default: the event loop stands meanwhile. */
const MAX_MS = 100

const options = { capacity: kinds.integer(1), maxMs: kinds.milliseconds(3_600_000) }
/** @type {(name: string, value: unknown) => number} */
const moment = (name, value) => integer(name, value, Number.MIN_SAFE_INTEGER)
/** @type {(name: string, value: unknown) => string | number} */
const identity = (name, value) => {
  if (typeof value === 'number' && Number.isSafeInteger(value)) return value
  if (typeof value === 'string') return kinds.nonEmptyString(name, value)
  throw invalid(`${name} must be a string or a safe integer, not ${formatValue(value)}`)
}
const buffer = { id: identity, lower: moment, upper: moment, size: kinds.integer(1), alignment: kinds.integer(1) }

/** @typedef {import('../types/arena.js').ArenaBuffer} ArenaBuffer */

/**
 * @param {readonly ArenaBuffer[]} buffers
 * @param {import('../types/arena.js').ArenaOptions} [given]
 * @returns {import('../types/arena.js').ArenaPlan}
 */
function planArena(buffers, given) {
  const { capacity, maxMs = MAX_MS } = check('planArena', given, options)
  const checked = checkedBuffers(buffers)
  const numbers = checked.flatMap(({ lower, upper, size, alignment }) => [lower, upper, size, alignment])
  const { offsets, size, lowerBound } = native.planArena(numbers, capacity, maxMs)
  return {
    size,
    lowerBound,
    isLeast: size === lowerBound,
    fits: capacity === undefined ? null : size <= capacity,
    placements: checked.map((each, at) => ({ ...each, offset: offsets[at] })),
  }
}

/**
 * @param {unknown} buffers
 * @returns {Required<ArenaBuffer>[]}
 */
function checkedBuffers(buffers) {
  if (!Array.isArray(buffers)) throw invalid(`planArena: buffers must be an array, not ${formatValue(buffers)}`)
  if (buffers.length > MAX_BUFFERS) {
    throw outOfRange(`planArena: ${buffers.length} buffers are more than the ${MAX_BUFFERS} of one plan`)
  }
  const ids = new Set()
  let bytes = 0
  return Array.from(buffers, (each, at) => {
    const name = `planArena: buffers[${at}]`
    if (each === undefined) throw invalid(`${name} is missing`)
    const { id, lower, upper, size, alignment = 1 } = check(name, each, buffer)
    if (id === undefined || lower === undefined || upper === undefined || size === undefined) {
      throw invalid(`${name} must have id, lower, upper and size`)
    }
    if (lower >= upper) {
      const hint = 'a buffer is alive from lower to just before upper'
      throw outOfRange(`${name} lives from ${lower} to ${upper}: upper must be greater than lower`, { hint })
    }
    if (!Number.isInteger(Math.log2(alignment))) {
      throw outOfRange(`${name}: alignment is ${alignment}; it must be a power of two`, { requested: alignment })
    }
    bytes += size + alignment
    if (bytes > MAX_BYTES) {
      const figures = { requested: bytes, limit: MAX_BYTES, hint: 'give smaller sizes, or plan in larger units' }
      throw outOfRange(`${name}: the sizes and alignments up to this one are ${bytes}, more than 2^53`, figures)
    }
    if (ids.has(id)) throw outOfRange(`${name}: the id ${formatValue(id)} was given before`)
    ids.add(id)
    return { id, lower, upper, size, alignment }
  })
}

module.exports = { planArena }
