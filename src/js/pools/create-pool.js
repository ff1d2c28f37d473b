'use strict'

const { REUSE_AFTER_MS, npuRequest, systemRequest } = require('../core/allocation-options.js')
const native = require('../core/binding.js')
const { check, invalid, outOfRange } = require('../core/options.js')
const schemas = require('./options.js')
const { makePool } = require('./pool.js')

/**
 * Implements `manager.createMemoryPool`.
 *
 * @param {number} manager the native handle
 * @param {import('./pool-host.js').PoolHost} host
 * @param {unknown} options
 */
function createPool(manager, host, options) {
  if (options === undefined) throw invalid('createMemoryPool needs options')
  const checked = check('createMemoryPool', options, schemas.pool)
  const { name, kind = 'npu', initialSize, tag, allocation, ...others } = checked
  if (name === undefined) throw invalid('createMemoryPool: name must be a string')
  // The native part would replace half a surrogate pair, and could meet another pool's name.
  if (!name.isWellFormed()) throw outOfRange('createMemoryPool: name has half a surrogate pair in it')
  if (initialSize === undefined) throw invalid('createMemoryPool: initialSize must be a number')
  const memory = (kind === 'npu' ? npuRequest : systemRequest)('createMemoryPool: allocation', allocation)
  const wanted = { kind, size: initialSize, tag: tag ?? memory.tag, pool: name }
  const request = { name, initialSize, reuseAfterMs: REUSE_AFTER_MS, ...others, [kind]: { ...memory, tag: wanted.tag } }
  const handle = host.reclaimer.allocateWithReclaim(() => native.createPool(manager, request), wanted)
  const pool = makePool(name, kind, handle, host)
  host.pools.add(pool)
  host.notifications.poll()
  return pool
}

module.exports = { createPool }
