'use strict'

// Implements `manager.createMemoryPool` and its asynchronous twin.

const { REUSE_AFTER_MS, npuRequest, systemRequest } = require('../core/allocation-options.js')
const native = require('../core/binding.js')
const { check, invalid, outOfRange } = require('../core/options.js')
const schemas = require('./options.js')
const { makePool } = require('./pool.js')

/**
 * @typedef {import('./pool-host.js').PoolHost} PoolHost
 * @typedef {ReturnType<typeof poolRequest>} PoolRequest
 */

/**
 * @param {number} manager the native handle
 * @param {PoolHost} host
 * @param {unknown} options
 */
function createPool(manager, host, options) {
  const { request, wanted } = poolRequest('createMemoryPool', options, schemas.pool)
  host.pools.checkName(request.name)
  const handle = host.reclaimer.allocateWithReclaim(() => native.createPool(manager, request), wanted)
  return opened(host, wanted, handle)
}

/**
 * @param {PoolHost & { handle: import('../core/manager-handle.js').ManagerHandle }} host
 * @param {unknown} options
 */
async function createPoolAsync(host, options) {
  host.handle.open()
  const { signal, request, wanted } = poolRequest('createMemoryPoolAsync', options, schemas.poolAsync)
  if (signal?.aborted) throw signal.reason
  const release = host.pools.claim(request.name, signal)
  const attempt = () =>
    host.tasks.run(
      () => native.createPoolAsync(host.handle.open(), request),
      signal,
      (handle) => opened(host, wanted, handle),
      (handle) => native.poolDestroy(handle, true),
    )
  try {
    return await host.asyncAllocations.allocate(attempt, wanted, signal)
  } finally {
    release()
  }
}

/**
 * Checks the options of a new pool and converts them for the native part.
 *
 * @param {string} what
 * @param {unknown} options
 * @param {typeof schemas.pool} schema
 */
function poolRequest(what, options, schema) {
  if (options === undefined) throw invalid(`${what} needs options`)
  const checked = check(what, options, /** @type {typeof schemas.poolAsync} */ (schema))
  const { name, kind = 'npu', initialSize, tag, allocation, signal, ...others } = checked
  if (name === undefined) throw invalid(`${what}: name must be a string`)
  // The native part would replace half a surrogate pair, and could meet another pool's name.
  if (!name.isWellFormed()) throw outOfRange(`${what}: name has half a surrogate pair in it`)
  if (initialSize === undefined) throw invalid(`${what}: initialSize must be a number`)
  const memory = (kind === 'npu' ? npuRequest : systemRequest)(`${what}: allocation`, allocation)
  const wanted = { kind, size: initialSize, tag: tag ?? memory.tag, pool: name }
  const request = { name, initialSize, reuseAfterMs: REUSE_AFTER_MS, ...others, [kind]: { ...memory, tag: wanted.tag } }
  return { signal, request, wanted }
}

/**
 * @param {PoolHost} host
 * @param {PoolRequest['wanted']} wanted
 * @param {number} handle
 */
function opened(host, { pool: name, kind }, handle) {
  const pool = makePool(name, kind, handle, host)
  host.pools.add(pool)
  host.notifications.poll()
  return pool
}

module.exports = { createPool, createPoolAsync }
