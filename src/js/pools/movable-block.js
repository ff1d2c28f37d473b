'use strict'

// Blocks that compaction may move. Their native handle stays, and their place is looked up at each use.

const { MAX_LENGTH } = require('node:buffer').constants
const native = require('../core/binding.js')
const { publicClass } = require('../core/border.js')
const { handleOf } = require('../core/buffers.js')
const { channels } = require('../core/diagnostics-channels.js')
const { MemoryBlock, freedError, tooLongError } = require('./block.js')
const { kMovable } = require('./pool-host.js')

/** The block of an ArrayBuffer: a reachable buffer keeps its block alive. */
const blocks = new WeakMap()

/** Frees blocks that were dropped together with their ArrayBuffers, and reports dropped blocks that are pinned. */
const dropped = new FinalizationRegistry((/** @type {{ pool: number, handle: number }} */ { pool, handle }) =>
  native.movableCollected(pool, handle),
)

const isLive = (/** @type {ArrayBuffer} */ buffer) => native.isLive(handleOf(buffer))

class MovableBlock extends MemoryBlock {
  #host
  #pool
  #handle
  #id
  #size
  #tag
  #freed = false
  /** @type {ArrayBuffer | undefined} The ArrayBuffer that was last read. */
  #buffer
  /** Whether `dropped` has the block. */
  #watched = false

  /**
   * @param {import('./pool-host.js').PoolHost} host
   * @param {number} pool
   * @param {number} size
   * @param {[handle: number, id: number]} made
   * @param {string | undefined} tag
   */
  constructor(host, pool, size, [handle, id], tag) {
    super(kMovable, host, pool, size)
    this.#host = host
    this.#pool = pool
    this.#handle = handle
    this.#id = id
    this.#size = size
    this.#tag = tag
  }

  get id() {
    return this.#id
  }

  get movable() {
    return true
  }

  get freed() {
    if (!this.#freed && !native.movableIsLive(this.#pool, this.#handle)) this.#end()
    return this.#freed
  }

  get buffer() {
    // A move detaches the buffer, and the next read makes a new one. A buffer that the user transferred is not
    // replaced.
    if (this.#buffer !== undefined && isLive(this.#buffer)) return this.#buffer
    if (this.freed) throw freedError()
    if (this.#size > MAX_LENGTH) throw tooLongError(this.#size, 'the block stays as it was')
    const made = native.movableExpose(this.#pool, this.#handle)
    this.#buffer = this.#host.allocator.handOut(made, this.#pool, true)
    blocks.set(this.#buffer, this)
    this.#watch()
    return this.#buffer
  }

  get address() {
    return BigInt(native.movableAddresses(this.#pool, this.#handle)[0])
  }

  get deviceAddress() {
    const [, address] = native.movableAddresses(this.#pool, this.#handle)
    return address === -1 ? null : BigInt(address)
  }

  pin() {
    native.movablePin(this.#pool, this.#handle, true)
    this.#watch()
  }

  unpin() {
    const others = native.movablePin(this.#pool, this.#handle, false)
    // The collector frees no block whose buffer was never read.
    if (!others && this.#buffer === undefined) this.#unwatch()
  }

  free() {
    if (this.freed) throw freedError()
    if (this.#buffer !== undefined && isLive(this.#buffer)) {
      native.movableFreeable(this.#pool, this.#handle)
      this.#host.allocator.deallocate(this.#buffer)
      this.#end()
    } else {
      native.movableFree(this.#pool, this.#handle)
      this.#end()
      if (channels.free.hasSubscribers) this.#host.publisher.block(channels.free, this.#pool, this, this.#tag)
    }
  }

  #watch() {
    if (this.#watched) return
    this.#watched = true
    dropped.register(this, { pool: this.#pool, handle: this.#handle }, this)
  }

  #unwatch() {
    if (this.#watched) dropped.unregister(this)
    this.#watched = false
  }

  #end() {
    this.#freed = true
    this.#unwatch()
    this.#host.compactor.scheduleCompaction(this.#pool)
  }

  static {
    publicClass(MovableBlock, (value) => #freed in value)
  }
}

module.exports = { MovableBlock }
