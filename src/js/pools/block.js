'use strict'

const { MAX_LENGTH } = require('node:buffer').constants
const { inspect } = require('node:util')
const native = require('../core/binding.js')
const { publicClass } = require('../core/border.js')
const { acceptBlocks, byteLengthOf } = require('../core/buffers.js')
const { channels } = require('../core/diagnostics-channels.js')
const { defineDispose } = require('../core/disposable.js')
const { memoryError } = require('../core/errors.js')
const fastPath = require('../core/fast-path.js')
const { formatBytes } = require('../core/format-bytes.js')
const { inspectNonInstance } = require('../core/inspect-non-instance.js')
const { invalid, outOfRange } = require('../core/options.js')
const { kConstruct, kMovable } = require('./pool-host.js')

// Local names: on the fast path even a property costs.
const { free, isLive, numbers, words } = fastPath
const { ADDRESS, CHUNK, CHUNK_GENERATION, DEVICE_ADDRESS, FLAGS, ID, POOL, SLOT, SLOT_GENERATION } = fastPath
const { free: freeChannel } = channels

// Access for the pool to private state.
/** @type {(value: unknown) => value is MemoryBlock} */
let isBlock
/** @type {(block: MemoryBlock, pool: number) => boolean} */
let blockIsOf

/** @type {any} Movable blocks are known to the native part by id: they have no name and no address here. */
const NONE = undefined

/** Reports that the collector took a block that was pinned. */
const collected = new FinalizationRegistry((/** @type {SliceName} */ name) => native.blockCollected(...name))

/**
 * @typedef {[pool: number, chunk: number, chunkGeneration: number, slot: number, slotGeneration: number]} SliceName
 */

/**
 * A slice of a pool by name: no ArrayBuffer is made until `buffer` is read. Dropping a block whose buffer was never
 * read frees nothing: `free` it, or reset its pool.
 */
class MemoryBlock {
  #host
  #pool
  /** @type {number} The slice's name. A chunk of -1: it was freed. */
  #chunk = NONE
  /** @type {number} */
  #chunkGeneration = NONE
  /** @type {number} */
  #slot = NONE
  /** @type {number} */
  #slotGeneration = NONE
  /** @type {number} */
  #address = NONE
  /** @type {number} */
  #deviceAddress = NONE
  /** @type {number} */
  #id = NONE
  #size
  /** @type {ArrayBuffer | undefined} The ArrayBuffer, once it was read. */
  #buffer
  /** @type {number} The native allocation of the ArrayBuffer. */
  #handle = NONE
  /** Whether `collected` has the block. */
  #watched = false

  /**
   * @param {symbol} key
   * @param {import('./pool-host.js').PoolHost} host
   * @param {number} pool
   * @param {number} size
   */
  constructor(key, host, pool, size) {
    if (key !== kConstruct && key !== kMovable) throw invalid('a MemoryBlock is made by pool.allocate')
    this.#host = host
    this.#pool = pool
    this.#size = size
    if (key === kMovable) return
    this.#chunk = words[CHUNK]
    this.#chunkGeneration = words[CHUNK_GENERATION]
    this.#slot = words[SLOT]
    this.#slotGeneration = words[SLOT_GENERATION]
    this.#address = numbers[ADDRESS]
    this.#deviceAddress = numbers[DEVICE_ADDRESS]
    this.#id = numbers[ID]
  }

  get id() {
    return this.#id
  }

  get size() {
    return this.#size
  }

  get movable() {
    return false
  }

  get freed() {
    // `pool.reset`, the pool's end or `deallocate(block.buffer)` may have freed it.
    if (this.#chunk !== -1 && !this.#isLive()) this.#end()
    return this.#chunk === -1
  }

  get buffer() {
    if (this.freed) throw freedError()
    // While the block was pinned, its buffer may have been transferred, and the collector may have taken it.
    if (this.#buffer !== undefined && (byteLengthOf(this.#buffer) !== 0 || native.isLive(this.#handle)))
      return this.#buffer
    // A runtime that refuses the size runs the buffer's finalizer, which would free the block.
    if (this.#size > MAX_LENGTH) throw tooLongError(this.#size, 'the block stays as it was')
    const exposed = this.#call(native.poolExpose)
    this.#handle = exposed[1]
    this.#buffer = this.#host.allocator.handOut(exposed, this.#pool)
    return this.#buffer
  }

  get address() {
    if (this.freed) throw freedError()
    return BigInt(this.#address)
  }

  get deviceAddress() {
    if (this.freed) throw freedError()
    return this.#deviceAddress === -1 ? null : BigInt(this.#deviceAddress)
  }

  pin() {
    this.#call(native.pinSlice)
    if (this.#watched) return
    this.#watched = true
    collected.register(this, this.#call((...name) => name), this)
  }

  unpin() {
    const others = this.#call(native.unpinSlice)
    // Once a buffer was read, the collector frees the block: if not with the buffer, then with the block.
    if (!others && this.#buffer === undefined) this.#unwatch()
  }

  free() {
    if (this.#chunk === -1) throw freedError()
    if (this.#buffer !== undefined && native.isLive(this.#handle)) {
      this.#host.allocator.deallocate(this.#buffer)
      this.#end()
      return
    }
    const tag = freeChannel.hasSubscribers ? this.#call(native.sliceTag) : null
    this.#free()
    this.#end()
    if (freeChannel.hasSubscribers) this.#host.publisher.block(freeChannel, this.#pool, this, tag)
  }

  /**
   * @param {number} _depth
   * @param {import('node:util').InspectOptionsStylized} options
   */
  [inspect.custom](_depth, options) {
    if (!(#chunk in this)) return inspectNonInstance(options)
    const state = this.freed ? 'freed' : `at 0x${this.#address.toString(16)}`
    return `${options.stylize('MemoryBlock', 'special')} (${formatBytes(this.#size)}, ${state})`
  }

  /**
   * Calls a function of the native part, off the fast path, with the slice's name.
   *
   * @template T
   * @param {(...name: SliceName) => T} verb
   * @returns {T}
   */
  #call(verb) {
    return verb(this.#pool, this.#chunk, this.#chunkGeneration, this.#slot, this.#slotGeneration)
  }

  #isLive() {
    this.#writeName()
    isLive()
    return words[FLAGS] === 1
  }

  #free() {
    this.#writeName()
    free()
  }

  #writeName() {
    numbers[POOL] = this.#pool
    words[CHUNK] = this.#chunk
    words[CHUNK_GENERATION] = this.#chunkGeneration
    words[SLOT] = this.#slot
    words[SLOT_GENERATION] = this.#slotGeneration
  }

  /** Remembers that the slice was freed. */
  #end() {
    this.#chunk = -1
    if (this.#watched) this.#unwatch()
  }

  #unwatch() {
    collected.unregister(this)
    this.#watched = false
  }

  static {
    isBlock = /** @type {typeof isBlock} */ ((value) => typeof value === 'object' && value !== null && #pool in value)
    blockIsOf = (block, pool) => block.#pool === pool
    acceptBlocks({ isBlock, allocatorOf: (block) => block.#host.allocator })
  }
}

defineDispose(MemoryBlock, function dispose() {
  if (!this.freed) this.free()
})

publicClass(MemoryBlock, isBlock)

/**
 * Refuses a size before it is allocated: a slice without an ArrayBuffer would be lost.
 *
 * @param {number} size
 * @param {string} outcome
 */
function tooLongError(size, outcome) {
  return outOfRange(`this runtime makes no ArrayBuffer of ${formatBytes(size)}; ${outcome}`, {
    requested: size,
    hint: 'use smaller blocks, or Node 22 or later',
  })
}

const freedError = () => memoryError('ERR_BUFFER_FREED', 'this block was freed already')

module.exports = { MemoryBlock, blockIsOf, freedError, isBlock, tooLongError }
