'use strict'

const { MAX_REUSE_AFTER_MS, allocation } = require('../core/allocation-options.js')
const { kinds } = require('../core/options.js')

/**
 * @template T
 * @typedef {import('../core/options.js').Validator<T>} Validator
 */

/** The options of `createMemoryPool`. */
const pool = {
  name: kinds.nonEmptyString,
  kind: kinds.oneOf('npu', 'system'),
  initialSize: kinds.integer(0),
  maxSize: kinds.integer(1),
  chunkSize: kinds.integer(1),
  blockSize: kinds.integer(1),
  alignment: kinds.integer(1),
  tag: kinds.tag,
  reuseAfterMs: kinds.milliseconds(MAX_REUSE_AFTER_MS),
  growAhead: kinds.share,
  /** @type {Validator<any>} createPool checks it with the schema of the pool's kind. */
  allocation: (_name, value) => value,
}

/** The options of `destroyMemoryPool`. */
const destroyPool = { force: kinds.boolean }

/** The options of `pool.allocate` and `allocateFromPool`. */
const poolAllocation = { ...allocation, movable: kinds.boolean }

/** The options of their asynchronous twins. */
const poolAsync = { ...pool, signal: kinds.signal }
const poolAllocationAsync = { ...poolAllocation, signal: kinds.signal }

module.exports = { destroyPool, pool, poolAllocation, poolAllocationAsync, poolAsync }
