'use strict'

// The ArrayBuffers that one manager handed out and that `dispose` has to detach.

const native = require('../core/binding.js')
const { handleOf } = require('../core/buffers.js')

/** The first sweep happens at this many entries; each later one at twice as many as the last sweep left. */
const FIRST_SWEEP = 256

/**
 * @typedef {object} Entry
 * @property {WeakRef<ArrayBuffer>} view
 * @property {number | undefined} pool the native pool it is of
 * @property {boolean} movable whether it is over a movable block
 */

class LiveBuffers {
  /** @type {Map<number, Entry>} By native allocation. Entries of collected buffers stay until a sweep. */
  #entries = new Map()
  #sweepAt = FIRST_SWEEP

  /**
   * @param {number} handle
   * @param {ArrayBuffer} buffer
   * @param {number} [pool]
   */
  add(handle, buffer, pool, movable = false) {
    if (this.#entries.size >= this.#sweepAt) this.#sweep()
    this.#entries.set(handle, { view: new WeakRef(buffer), pool, movable })
  }

  /**
   * The buffer over an allocation, unless it was collected.
   *
   * @param {number} handle
   */
  viewOf(handle) {
    return this.#entries.get(handle)?.view.deref()
  }

  /**
   * Whether a buffer is over a movable block.
   *
   * @param {ArrayBuffer} buffer
   */
  isMovable(buffer) {
    return this.#entries.get(handleOf(buffer))?.movable === true
  }

  /**
   * The buffers that are still reachable, or those of one pool.
   *
   * @param {number} [pool]
   */
  *reachable(pool) {
    for (const { view, pool: of } of this.#entries.values()) {
      if (pool !== undefined && of !== pool) continue
      const buffer = view.deref()
      if (buffer !== undefined) yield buffer
    }
  }

  clear() {
    this.#entries.clear()
  }

  #sweep() {
    for (const [handle, { view }] of this.#entries) {
      if (view.deref() === undefined || !native.isLive(handle)) this.#entries.delete(handle)
    }
    this.#sweepAt = Math.max(FIRST_SWEEP, this.#entries.size * 2)
  }
}

module.exports = { LiveBuffers }
