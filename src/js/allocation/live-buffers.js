'use strict'

// The ArrayBuffers that one manager handed out and that `dispose` or a pool's end has to detach.

const native = require('../core/binding.js')
const { handleOf } = require('../core/buffers.js')

/** From this many entries on, those of collected buffers are removed. */
const FIRST_SWEEP = 256

/** The entries that one new buffer visits, so that no allocation pays for a walk over all of them. */
const VISITS = 2

/**
 * @typedef {object} Entry
 * @property {WeakRef<ArrayBuffer>} view
 * @property {number | undefined} pool the native pool it is of
 * @property {boolean} movable whether it is over a movable block
 */

class LiveBuffers {
  /** @type {Map<number, Entry>} By native allocation. Entries of collected buffers stay until a sweep. */
  #entries = new Map()
  /** @type {Map<number, Set<number>>} The native allocations of each pool. */
  #ofPool = new Map()
  /** The progress of the sweep. */
  #lap = this.#entries.keys()

  /**
   * @param {number} handle
   * @param {ArrayBuffer} buffer
   * @param {number} [pool]
   */
  add(handle, buffer, pool, movable = false) {
    if (this.#entries.size >= FIRST_SWEEP) this.#sweep()
    this.#entries.set(handle, { view: new WeakRef(buffer), pool, movable })
    if (pool === undefined) return
    const handles = this.#ofPool.get(pool)
    if (handles === undefined) this.#ofPool.set(pool, new Set([handle]))
    else handles.add(handle)
  }

  /**
   * Removes the buffer over an allocation that has ended.
   *
   * @param {number} handle
   */
  delete(handle) {
    const pool = this.#entries.get(handle)?.pool
    this.#entries.delete(handle)
    if (pool === undefined) return
    const handles = /** @type {Set<number>} */ (this.#ofPool.get(pool))
    handles.delete(handle)
    if (handles.size === 0) this.#ofPool.delete(pool)
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
    for (const handle of pool === undefined ? this.#entries.keys() : (this.#ofPool.get(pool) ?? [])) {
      const buffer = this.viewOf(handle)
      if (buffer !== undefined) yield buffer
    }
  }

  clear() {
    this.#entries.clear()
    this.#ofPool.clear()
  }

  /** Visits the next entries, around and around, and removes those of allocations that have ended. */
  #sweep() {
    for (let visits = 0; visits < VISITS; visits++) {
      const { done, value: handle } = this.#lap.next()
      if (done) this.#lap = this.#entries.keys()
      else if (!native.isLive(handle)) this.delete(handle)
    }
  }
}

module.exports = { LiveBuffers }
