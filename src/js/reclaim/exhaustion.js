'use strict'

/** The codes of errors that reclaiming memory may resolve. */
const EXHAUSTION = new Set([
  'ERR_POOL_EXHAUSTED',
  'ERR_OUT_OF_MEMORY',
  'ERR_IOVA_EXHAUSTED',
  'ERR_MEMORY_LIMIT',
  'ERR_TOO_MANY_FDS',
  'ERR_TOO_MANY_MAPS',
])

/**
 * Whether an allocation failed because something is exhausted that reclaiming memory may give back.
 *
 * @param {any} error
 * @returns {error is import('../types/errors.js').MemoryError}
 */
const isExhaustion = (error) => EXHAUSTION.has(error?.code)

module.exports = { isExhaustion }
