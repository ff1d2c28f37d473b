'use strict'

const { MAX_LENGTH } = require('node:buffer').constants
const { inspect } = require('node:util')
const native = require('../core/binding.js')
const { publicClass } = require('../core/border.js')
const { arrayBufferOf, byteLengthOf } = require('../core/buffers.js')
const { channels } = require('../core/diagnostics-channels.js')
const { defineDispose } = require('../core/disposable.js')
const { memoryError } = require('../core/errors.js')
const fastPath = require('../core/fast-path.js')
const { formatBytes } = require('../core/format-bytes.js')
const { inspectNonInstance } = require('../core/inspect-non-instance.js')
const { check, integer, invalid } = require('../core/options.js')
const { allocateBlock, allocateBuffer } = require('./async-allocation.js')
const { MemoryBlock, blockIsOf, isBlock, tooLongError } = require('./block.js')
const { MovableBlock } = require('./movable-block.js')
const schemas = require('./options.js')
const { kConstruct } = require('./pool-host.js')

// Local names: on the fast path even a property costs.
const { ALIGNMENT, FLAGS, POOL, SIZE, TAG, allocate, allocateWith, notifications, numbers, words } = fastPath
const { isArray } = Array
const { isSafeInteger } = Number
const { allocate: allocateChannel } = channels

/**
 * @typedef {import('./pool-host.js').PoolHost} PoolHost
 * @typedef {import('../types/allocations.js').MemoryKind} MemoryKind
 * @typedef {import('../types/stats.js').PoolStats} PoolStats
 */

/**
 * Allocates a slice: afterwards its place and its name lie in the shared buffer.
 *
 * @param {number} pool
 * @param {number} size
 * @param {number} alignment
 */
function allocateSlice(pool, size, alignment) {
  numbers[POOL] = pool
  numbers[SIZE] = size
  numbers[ALIGNMENT] = alignment
  allocate()
}

/**
 * Like `allocateSlice`, with a tag's number (-1: none) or zeroed.
 *
 * @param {number} pool
 * @param {number} size
 * @param {number} alignment
 * @param {boolean | undefined} zeroed
 * @param {number} tag
 */
function allocateSliceWith(pool, size, alignment, zeroed, tag) {
  numbers[POOL] = pool
  numbers[SIZE] = size
  numbers[ALIGNMENT] = alignment
  words[TAG] = tag
  // Without the option, bytes of owners with another tag are cleared.
  words[FLAGS] = zeroed === undefined ? 0 : zeroed ? 1 : 2
  allocateWith()
}

/**
 * The options of `pool.allocate`, each read once. `check` explains wrong ones, but takes longer than an allocation: it
 * sees only what does not pass here.
 *
 * @param {any} options
 * @returns {{ alignment?: number, zeroed?: boolean, movable?: boolean, tag?: string | null }}
 */
function allocationOptions(options) {
  if (typeof options === 'object' && options !== null && !isArray(options) && hasKnownNames(options)) {
    const { alignment, zeroed, movable, tag } = options
    const valid =
      (alignment === undefined || (isSafeInteger(alignment) && alignment > 0)) &&
      (zeroed === undefined || typeof zeroed === 'boolean') &&
      (movable === undefined || typeof movable === 'boolean') &&
      (tag == null || typeof tag === 'string')
    if (valid) return { alignment, zeroed, movable, tag }
  }
  return check('allocate', options, schemas.poolAllocation)
}

/** @param {object} options */
function hasKnownNames(options) {
  for (const name in options) {
    switch (name) {
      case 'alignment':
      case 'movable':
      case 'tag':
      case 'zeroed':
        break
      default:
        return false
    }
  }
  return true
}

// Access for the manager to private state.
/** @type {(value: unknown) => value is MemoryPool} */
let isPool
/** @type {(pool: MemoryPool, force: boolean) => void} */
let destroyPool
/** @type {(pool: MemoryPool) => void} */
let endPool
/** @type {(pool: MemoryPool) => number} */
let handleOf
/** @type {(pool: MemoryPool) => void} Keeps a pool that is made to be full from warning of it. */
let expectFull

/** The finest alignment in a pool, in bytes. */
const CACHE_LINE = 64

/** The most tags whose numbers a pool keeps; beyond them all are given back. */
const MAX_TAGS = 256

/**
 * Slices of few large pieces of memory in place of many small ones. Made by `manager.createMemoryPool`.
 */
class MemoryPool {
  #name
  #kind
  /** The native pool; 0 once destroyed. */
  #handle
  #host
  /** The count of notifications at the last poll. */
  #seen = notifications[0]
  /** @type {Map<string, number>} Tag → its number in the native pool. */
  #tags = new Map()
  /** @type {string | undefined} The last tag, which saves the next request the look-up. */
  #lastTag
  #lastTagId = -1

  /**
   * @param {symbol} key
   * @param {string} name
   * @param {MemoryKind} kind
   * @param {number} handle
   * @param {PoolHost} host
   */
  constructor(key, name, kind, handle, host) {
    if (key !== kConstruct) throw invalid('a MemoryPool is made by createMemoryPool')
    this.#name = name
    this.#kind = kind
    this.#handle = handle
    this.#host = host
  }

  get name() {
    return this.#name
  }

  get kind() {
    return this.#kind
  }

  get destroyed() {
    return this.#handle === 0
  }

  /**
   * @param {number} size
   * @param {unknown} [options]
   */
  allocate(size, options) {
    const handle = this.#open()
    if (options !== undefined) return this.#allocateWith(handle, size, options)
    // The fast path: a comparison, one call of numbers, one object.
    if (!isSafeInteger(size) || size < 1) integer('size', size, 1)
    this.#allocateSlice(handle, size, CACHE_LINE)
    if (notifications[0] !== this.#seen) this.#seen = this.#host.notifications.poll()
    const block = new MemoryBlock(kConstruct, this.#host, handle, size)
    if (allocateChannel.hasSubscribers) this.#host.publisher.block(allocateChannel, handle, block)
    return block
  }

  /**
   * @param {number} size
   * @param {unknown} [options]
   */
  allocateBuffer(size, options) {
    const handle = this.#open()
    integer('size', size, 1)
    const checked = check('allocateFromPool', options, schemas.poolAllocation)
    const { alignment, zeroed, movable = false, tag } = checked
    // The holder of an ArrayBuffer alone could not follow its bytes.
    if (movable) {
      throw invalid('an ArrayBuffer cannot be movable', 'pool.allocate(size, { movable: true }) gives a block that is')
    }
    return this.#host.allocator.allocated(this.#allocateExposed(handle, size, alignment, zeroed, tag), handle)
  }

  /**
   * @param {number} size
   * @param {unknown} [options]
   */
  async allocateAsync(size, options) {
    const request = this.#asyncRequest('allocateAsync', size, options)
    return allocateBlock(this.#host, request, (tag) => this.#tagId(this.#open(), tag))
  }

  /**
   * @param {number} size
   * @param {unknown} [options]
   */
  async allocateBufferAsync(size, options) {
    return allocateBuffer(this.#host, this.#asyncRequest('allocateFromPoolAsync', size, options))
  }

  /** @param {unknown} memory */
  deallocate(memory) {
    const handle = this.#open()
    if (isBlock(memory)) {
      if (!blockIsOf(memory, handle)) throw this.#otherPoolError()
      memory.free()
      return
    }
    const { allocator } = this.#host
    const buffer = arrayBufferOf(memory)
    if (byteLengthOf(buffer) !== 0 && allocator.describe(buffer).pool !== this.#name) throw this.#otherPoolError()
    allocator.deallocate(buffer)
  }

  reset() {
    const handle = this.#open()
    const publishFrees = this.#host.allocator.detachAll(handle)
    native.poolReset(handle)
    publishFrees()
  }

  trim() {
    return native.poolTrim(this.#open())
  }

  /** @param {unknown} [options] */
  defragment(options) {
    const handle = this.#open()
    return this.#host.compactor.defragment(handle, options)
  }

  stats() {
    return /** @type {PoolStats} */ (native.poolStats(this.#open()))
  }

  /**
   * @param {number} _depth
   * @param {import('node:util').InspectOptionsStylized} options
   */
  [inspect.custom](_depth, options) {
    if (!(#handle in this)) return inspectNonInstance(options)
    const name = `${options.stylize('MemoryPool', 'special')} ${options.stylize(inspect(this.#name), 'string')}`
    if (this.destroyed) return `${name} (${this.#kind}, destroyed)`
    const { allocated, reserved, chunks, liveAllocations, fragmentation } = this.stats()
    const size = `${formatBytes(allocated)} of ${formatBytes(reserved)}`
    const count = `${chunks} ${chunks === 1 ? 'chunk' : 'chunks'}`
    const share = `${Math.round(fragmentation * 100)} % fragmented`
    return `${name} (${this.#kind}) { ${size} in ${count}, ${liveAllocations} live, ${share} }`
  }

  /**
   * @param {number} handle
   * @param {number} size
   * @param {unknown} options
   */
  #allocateWith(handle, size, options) {
    if (!isSafeInteger(size) || size < 1) integer('size', size, 1)
    const { alignment = CACHE_LINE, zeroed, movable = false, tag: given } = allocationOptions(options)
    const tag = given ?? undefined
    let block
    if (movable) {
      block = this.#allocateMovable(handle, size, alignment, zeroed, tag)
    } else {
      const tagId = tag === undefined ? -1 : tag === this.#lastTag ? this.#lastTagId : this.#tagId(handle, tag)
      this.#allocateSliceWith(handle, size, alignment, zeroed, tagId, tag)
      if (notifications[0] !== this.#seen) this.#seen = this.#host.notifications.poll()
      block = new MemoryBlock(kConstruct, this.#host, handle, size)
    }
    if (allocateChannel.hasSubscribers) this.#host.publisher.block(allocateChannel, handle, block, tag)
    return block
  }

  /**
   * @param {number} handle
   * @param {number} size
   * @param {number} alignment
   */
  #allocateSlice(handle, size, alignment) {
    try {
      allocateSlice(handle, size, alignment)
    } catch (refusal) {
      this.#host.reclaimer.reclaimAndRetry(refusal, () => allocateSlice(handle, size, alignment), { size }, handle)
    }
  }

  /**
   * @param {number} handle
   * @param {number} size
   * @param {number} alignment
   * @param {boolean | undefined} zeroed
   * @param {number} tagId
   * @param {string | undefined} tag
   */
  #allocateSliceWith(handle, size, alignment, zeroed, tagId, tag) {
    try {
      allocateSliceWith(handle, size, alignment, zeroed, tagId)
    } catch (refusal) {
      const again = () => allocateSliceWith(handle, size, alignment, zeroed, tagId)
      this.#host.reclaimer.reclaimAndRetry(refusal, again, { size, tag }, handle)
    }
  }

  /**
   * The number of a tag in the native pool.
   *
   * @param {number} handle
   * @param {string} tag
   */
  #tagId(handle, tag) {
    let id = this.#tags.get(tag)
    if (id === undefined) {
      if (this.#tags.size >= MAX_TAGS) {
        this.#tags.clear()
        native.poolForgetTags(handle)
      }
      id = native.poolTag(handle, tag)
      this.#tags.set(tag, id)
    }
    this.#lastTag = tag
    this.#lastTagId = id
    return id
  }

  /**
   * @param {number} handle
   * @param {number} size
   * @param {number | undefined} alignment
   * @param {boolean | undefined} zeroed
   * @param {string | undefined} tag
   */
  #allocateExposed(handle, size, alignment, zeroed, tag) {
    if (size > MAX_LENGTH) throw tooLongError(size, 'nothing was allocated')
    const allocate = () => native.allocateFromPool(handle, size, alignment, zeroed, tag)
    return this.#host.reclaimer.allocateWithReclaim(allocate, { size, tag }, handle)
  }

  /**
   * @param {number} handle
   * @param {number} size
   * @param {number} alignment
   * @param {boolean | undefined} zeroed
   * @param {string | undefined} tag
   */
  #allocateMovable(handle, size, alignment, zeroed, tag) {
    const allocate = () => native.movableAllocate(handle, size, alignment, zeroed, tag)
    const made = this.#host.reclaimer.allocateWithReclaim(allocate, { size, tag }, handle)
    this.#host.notifications.poll()
    return new MovableBlock(this.#host, handle, size, made, tag)
  }

  /**
   * @param {string} what
   * @param {number} size
   * @param {unknown} options
   */
  #asyncRequest(what, size, options) {
    this.#open()
    integer('size', size, 1)
    return { ...check(what, options, schemas.poolAllocationAsync), size, open: () => this.#open() }
  }

  #otherPoolError() {
    return memoryError('ERR_UNKNOWN_BUFFER', `this memory is not of pool ${JSON.stringify(this.#name)}`)
  }

  #open() {
    if (this.#handle === 0) {
      throw memoryError('ERR_POOL_DESTROYED', `pool ${JSON.stringify(this.#name)} was destroyed`)
    }
    return this.#handle
  }

  static {
    // Not instanceof, which an object that merely inherits from a pool would pass.
    isPool = /** @type {typeof isPool} */ ((value) => typeof value === 'object' && value !== null && #handle in value)
    destroyPool = (pool, force) => {
      const handle = pool.#open()
      const publishFrees = force ? pool.#host.allocator.detachAll(handle) : () => {}
      native.poolDestroy(handle, force)
      pool.#host.allocator.poolEnded(handle)
      pool.#host.pools.delete(pool)
      pool.#handle = 0
      publishFrees()
    }
    handleOf = (pool) => pool.#handle
    expectFull = (pool) => native.poolExpectFull(pool.#handle)
    endPool = (pool) => {
      pool.#handle = 0
    }
  }
}

defineDispose(MemoryPool, function dispose() {
  if (!this.destroyed) destroyPool(this, true)
})

publicClass(MemoryPool, isPool)

/**
 * Constructs the JavaScript object of the native pool `handle`.
 *
 * @param {string} name
 * @param {MemoryKind} kind
 * @param {number} handle
 * @param {PoolHost} host
 */
const makePool = (name, kind, handle, host) => new MemoryPool(kConstruct, name, kind, handle, host)

module.exports = { MemoryPool, destroyPool, endPool, expectFull, handleOf, isPool, makePool }
