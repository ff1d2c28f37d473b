'use strict'

const { check, invalid, kinds, outOfRange, formatValue } = require('../core/options.js')

/**
 * @template T
 * @typedef {import('../core/options.js').Validator<T>} Validator
 */
/**
 * @template {import('../core/options.js').Schema} S
 * @typedef {import('../core/options.js').Checked<S>} Checked
 */

/** The options of `pool.defragment`. */
const defragment = {
  maxBytes: kinds.integer(0),
  maxMoves: kinds.integer(0),
  maxMs: kinds.milliseconds(Number.MAX_SAFE_INTEGER),
}

/** The options of `optimizeMemory`. */
const optimize = {
  trim: kinds.boolean,
  /** @type {Validator<boolean | Checked<typeof defragment>>} */
  defragment: (name, value) => (typeof value === 'boolean' ? value : check(name, value, defragment)),
}

/** The option `cleanup` of a manager. */
const cleanup = {
  onPressure: kinds.boolean,
  onExhaustion: kinds.boolean,
  /** @type {Validator<number | null>} */
  defragmentAbove: (name, value) => {
    if (value === null) return value
    if (typeof value !== 'number') throw invalid(`${name} must be a number or null, not ${formatValue(value)}`)
    if (!(value >= 0 && value <= 1)) throw outOfRange(`${name} is ${value}; it must be from 0 to 1`)
    return value
  },
}

module.exports = { cleanup, defragment, optimize }
