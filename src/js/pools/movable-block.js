'use strict'

// Blocks that compaction may move. Their id stays, and their place is looked up at each use.

const { MAX_LENGTH } = require('node:buffer').constants
const native = require('../core/binding.js')
const { publicClass } = require('../core/border.js')
const { idOf } = require('../core/buffers.js')
const { channels } = require('../core/diagnostics-channels.js')
const { MemoryBlock, freedError, tooLongError } = require('./block.js')
const { kMovable } = require('./pool-host.js')

/** The block of an ArrayBuffer: a reachable buffer keeps its block alive. */
const blocks = new WeakMap()

/** Frees blocks that were dropped together with their ArrayBuffers. */
const dropped = new FinalizationRegistry((/** @type {{ pool: number, id: number }} */ { pool, id }) =>
  native.movableCollected(pool, id),
)

const isLive = (/** @type {ArrayBuffer} */ buffer) => native.isLive(idOf(buffer))

class MovableBlock extends MemoryBlock {
  #host
  #pool
  #id
  #size
  #tag
  #freed = false
  /** @type {ArrayBuffer | undefined} The ArrayBuffer, if it was read since the last move. */
  #buffer

  /**
   * @param {import('./pool-host.js').PoolHost} host
   * @param {number} pool
   * @param {number} size
   * @param {number} id
   * @param {string | undefined} tag
   */
  constructor(host, pool, size, id, tag) {
    super(kMovable, host, pool, size)
    this.#host = host
    this.#pool = pool
    this.#id = id
    this.#size = size
    this.#tag = tag
    dropped.register(this, { pool, id }, this)
  }

  get id() {
    return this.#id
  }

  get movable() {
    return true
  }

  get freed() {
    if (!this.#freed && !native.movableIsLive(this.#pool, this.#id)) this.#end()
    return this.#freed
  }

  get buffer() {
    // A move detaches the buffer, and the next read makes a new one. A buffer that the user transferred is not
    // replaced.
    if (this.#buffer !== undefined && isLive(this.#buffer)) return this.#buffer
    if (this.freed) throw freedError()
    if (this.#size > MAX_LENGTH) throw tooLongError(this.#size, 'the block stays as it was')
    const made = native.movableExpose(this.#pool, this.#id)
    this.#buffer = this.#host.allocator.handOut(made, this.#pool, { id: this.#id, movable: true })
    blocks.set(this.#buffer, this)
    return this.#buffer
  }

  get address() {
    return BigInt(native.movableAddresses(this.#pool, this.#id)[0])
  }

  get deviceAddress() {
    const [, address] = native.movableAddresses(this.#pool, this.#id)
    return address === -1 ? null : BigInt(address)
  }

  pin() {
    native.movablePin(this.#pool, this.#id, true)
  }

  unpin() {
    native.movablePin(this.#pool, this.#id, false)
  }

  free() {
    if (this.freed) throw freedError()
    if (this.#buffer !== undefined && isLive(this.#buffer)) {
      native.movableFreeable(this.#pool, this.#id)
      this.#host.allocator.deallocate(this.#buffer)
      this.#end()
    } else {
      native.movableFree(this.#pool, this.#id)
      this.#end()
      if (channels.free.hasSubscribers) this.#host.publisher.block(channels.free, this.#pool, this, this.#tag)
    }
  }

  #end() {
    this.#freed = true
    dropped.unregister(this)
    this.#host.compactor.scheduleCompaction(this.#pool)
  }

  static {
    publicClass(MovableBlock, (value) => #freed in value)
  }
}

module.exports = { MovableBlock }
