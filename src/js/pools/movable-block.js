'use strict'

// Blocks that compaction may move. Everything about them is looked up: they have a name that stays, and no place.

const { MAX_LENGTH } = require('node:buffer').constants
const native = require('../core/binding.js')
const { channels } = require('../core/diagnostics-channels.js')
const { MemoryBlock, freedError, tooLong, unplaced } = require('./pool.js')

/** The block of an ArrayBuffer that is over one: whoever has the bytes in hand keeps the block. */
const blocks = new WeakMap()

/** Blocks that were dropped, and their ArrayBuffers with them. */
const dropped = new FinalizationRegistry(({ pool, id }) => native.movableDropped(pool, id))

class MovableBlock extends MemoryBlock {
  #manager
  #pool
  #id
  #size
  #tag
  #freed = false
  /** The ArrayBuffer, if it was read since the block was moved last. */
  #buffer

  constructor(manager, pool, size, id, tag) {
    super(unplaced, manager, pool, size)
    this.#manager = manager
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
    if (!this.#freed && !native.movableHolds(this.#pool, this.#id)) this.#end()
    return this.#freed
  }

  get buffer() {
    // A move takes the view away, and the next one is made here. What the user moved elsewhere stays gone.
    if (this.#buffer !== undefined && this.#manager.isLive(this.#buffer)) return this.#buffer
    if (this.freed) throw freedError()
    if (this.#size > MAX_LENGTH) throw tooLong(this.#size, 'the block stays as it was')
    this.#buffer = this.#manager.handedOut(native.movableExpose(this.#pool, this.#id), this.#pool, { id: this.#id, movable: true })
    blocks.set(this.#buffer, this)
    return this.#buffer
  }

  get address() {
    return BigInt(native.movablePlace(this.#pool, this.#id)[0])
  }

  get deviceAddress() {
    const [, address] = native.movablePlace(this.#pool, this.#id)
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
    if (this.#buffer !== undefined && this.#manager.isLive(this.#buffer)) {
      native.movableFreeable(this.#pool, this.#id)
      this.#manager.deallocate(this.#buffer)
      this.#end()
    } else {
      native.movableFree(this.#pool, this.#id)
      this.#end()
      if (channels.free.hasSubscribers) this.#manager.tell(channels.free, this.#pool, this, this.#tag)
    }
  }

  #end() {
    this.#freed = true
    dropped.unregister(this)
    this.#manager.gap(this.#pool)
  }
}

module.exports = { MovableBlock }
