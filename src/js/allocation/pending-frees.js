'use strict'

// Frees buffers when an operation has ended (`deallocateWhen`). A write to a socket, a file or zlib holds the bytes of
// a buffer after the call has returned.

const { EventEmitter, errorMonitor } = require('node:events')
const native = require('../core/binding.js')
const { allocatorOf, byteLengthOf, handleOf, isBlock } = require('../core/buffers.js')
const { memoryError } = require('../core/errors.js')
const { formatValue, invalid } = require('../core/options.js')
const { queueMicrotask } = require('../core/runtime.js')

/**
 * @typedef {{ freed: boolean, movable: boolean, free(): void, pin(): void, unpin(): void }} Block
 * @typedef {{ once: Function, removeListener: Function }} Emitter
 * @typedef {{ over: boolean, freed(): void }} Wait the end of a `deallocateWhen`
 */

class PendingFrees {
  #handle
  #allocator
  /**
   * The waits. They hold no buffer: if the operation is collected, so is its buffer.
   *
   * @type {Set<Wait>}
   */
  #waits = new Set()
  /**
   * The buffers that wait for an emitter. One set of listeners serves them all.
   *
   * @type {WeakMap<object, Set<() => void>>}
   */
  #ended = new WeakMap()

  /**
   * @param {object} parts of the manager
   * @param {import('../core/manager-handle.js').ManagerHandle} parts.handle
   * @param {import('./allocator.js').Allocator} parts.allocator
   */
  constructor({ handle, allocator }) {
    this.#handle = handle
    this.#allocator = allocator
  }

  /**
   * Frees a buffer or block when `done` has ended.
   *
   * @param {unknown} value
   * @param {unknown} done a promise, a stream or another emitter
   * @returns {Promise<void>}
   */
  async deallocateWhen(value, done) {
    this.#handle.open()
    const freeNow = isBlock(value) ? this.#freeBlock(/** @type {any} */ (value), done) : this.#freeBuffer(value, done)
    const { missingSyncs } = this.#allocator
    const place = missingSyncs?.place() ?? ''
    const free = () => (missingSyncs ? missingSyncs.at(place, freeNow) : freeNow())
    await new Promise((resolve, reject) => {
      /** @type {Wait} */
      const wait = { over: false, freed: () => resolve(undefined) }
      this.#waits.add(wait)
      this.#whenEnded(done, () => {
        if (wait.over) return
        this.#waits.delete(wait)
        try {
          resolve(free())
        } catch (error) {
          reject(error)
        }
      })
    })
  }

  /** Frees nothing any more: the manager is about to free the buffers. */
  stop() {
    for (const wait of this.#waits) wait.over = true
  }

  /** Ends all waits: the manager has freed the buffers. */
  end() {
    for (const wait of this.#waits) wait.freed()
    this.#waits.clear()
  }

  /**
   * Checks a block and returns the function that frees it. Compaction would detach the buffer of a movable block: it is
   * pinned until then.
   *
   * @param {Block} block
   * @param {unknown} done
   */
  #freeBlock(block, done) {
    if (allocatorOf(block) !== this.#allocator) {
      throw memoryError('ERR_UNKNOWN_BUFFER', 'this block is of a pool of another MemoryManager')
    }
    if (block.freed) throw memoryError('ERR_BUFFER_FREED', 'this block was freed already')
    checkOperation(done)
    if (block.movable) block.pin()
    return () => {
      if (block.freed) return
      if (block.movable) block.unpin()
      block.free()
    }
  }

  /**
   * Checks a buffer and returns the function that frees it.
   *
   * @param {unknown} value
   * @param {unknown} done
   */
  #freeBuffer(value, done) {
    const buffer = this.#allocator.liveBuffer(value)
    this.#allocator.describe(buffer) // throws for memory of others
    checkOperation(done)
    return () => {
      const freed = byteLengthOf(buffer) === 0 && handleOf(buffer) !== 0 && !native.isLive(handleOf(buffer))
      if (!freed) this.#allocator.deallocate(buffer)
    }
  }

  /**
   * Calls `ended` once, when a promise has settled or an emitter has ended.
   *
   * @param {any} done
   * @param {() => void} ended
   */
  #whenEnded(done, ended) {
    if (typeof done.then === 'function') {
      Promise.resolve(done).then(ended, ended)
      return
    }
    if (hasEnded(done)) {
      queueMicrotask(ended)
      return
    }
    const waiting = this.#ended.get(done)
    if (waiting !== undefined) {
      waiting.add(ended)
      return
    }
    const callbacks = new Set([ended])
    this.#ended.set(done, callbacks)
    onceEnded(done, () => {
      this.#ended.delete(done)
      for (const callback of callbacks) callback()
    })
  }
}

/** @param {any} done */
function checkOperation(done) {
  const isObject = (typeof done === 'object' && done !== null) || typeof done === 'function'
  if (isObject && typeof done.then === 'function') return
  if (isObject && typeof done.once === 'function' && typeof done.removeListener === 'function') return
  throw invalid(
    `deallocateWhen waits for a promise or a stream, not for ${formatValue(done)}`,
    'pass the promise of the operation, or the stream that the buffer was written to',
  )
}

/**
 * Returns whether a stream needs its buffers no more. One that was destroyed may still write until it is closed.
 *
 * @param {{ closed?: unknown, writableFinished?: unknown }} stream
 */
const hasEnded = (stream) => stream.closed === true || stream.writableFinished === true

/**
 * Calls `ended` at the first of an emitter's last events.
 *
 * @param {Emitter} emitter
 * @param {() => void} ended
 */
function onceEnded(emitter, ended) {
  // A listener of 'error' itself would hide an error that no other listener handles.
  const error = emitter instanceof EventEmitter ? errorMonitor : 'error'
  const events = ['finish', 'close', error]
  const listener = () => {
    for (const event of events) emitter.removeListener(event, listener)
    ended()
  }
  for (const event of events) emitter.once(event, listener)
}

module.exports = { PendingFrees }
