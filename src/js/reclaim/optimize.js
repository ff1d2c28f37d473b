'use strict'

const native = require('../core/binding.js')
const { collectGarbage } = require('../core/gc.js')
const { check } = require('../core/options.js')
const schemas = require('./options.js')
const { now } = require('../core/runtime.js')

/** How long `optimizeMemory` waits for a slow driver to take memory back. */
const REAPER_WAIT_MS = 2000

/** @typedef {import('../types/reclaim.js').OptimizeResult} OptimizeResult */

/**
 * Implements `manager.optimizeMemory`.
 *
 * @param {number} handle of the native manager
 * @param {Iterable<Pick<import('../types/pools.js').MemoryPool, 'name' | 'trim' | 'defragment'>>} pools
 * @param {unknown} options
 * @returns {OptimizeResult}
 */
function optimizeMemory(handle, pools, options) {
  const { trim = true, defragment = true } = check('optimizeMemory', options, schemas.optimize)
  const began = now()
  // Buffers that it collects are freed when the event loop turns, which is after this call.
  collectGarbage()
  native.waitForFrees(handle, REAPER_WAIT_MS)
  /** @type {OptimizeResult['pools']} */
  const results = {}
  let [bytesFreed, bytesMoved] = [trim ? native.trimSlabs(handle) : 0, 0]
  for (const pool of pools) {
    if (defragment !== false) {
      const result = pool.defragment(defragment === true ? {} : defragment)
      results[pool.name] = result
      bytesFreed += result.bytesFreed
      bytesMoved += result.bytesMoved
    } else if (trim) {
      bytesFreed += pool.trim()
    }
  }
  return { bytesFreed, bytesMoved, pools: results, durationMs: now() - began }
}

module.exports = { optimizeMemory }
