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
 * @property {Set<number> | undefined} siblings the native allocations of its pool
 * @property {boolean} movable whether it is over a movable block
 */

class LiveBuffers {
  /** @type {Map<number, Entry>} By native allocation. Entries of collected buffers stay until a sweep. */
  #entries = new Map()
  /** @type {Map<number, Set<number>>} The native allocations of each pool that had any; until the pool ends. */
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
    const siblings = pool === undefined ? undefined : this.#siblings(pool)
    siblings?.add(handle)
    this.#entries.set(handle, { view: new WeakRef(buffer), siblings, movable })
  }

  /**
   * Removes the buffer over an allocation that has ended.
   *
   * @param {number} handle
   */
  delete(handle) {
    this.#entries.get(handle)?.siblings?.delete(handle)
    this.#entries.delete(handle)
  }

  /**
   * Forgets a pool that has ended. Its buffers that are still live stay.
   *
   * @param {number} pool
   */
  poolEnded(pool) {
    this.#ofPool.delete(pool)
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

  /**
   * @param {number} pool
   * @returns {Set<number>}
   */
  #siblings(pool) {
    let handles = this.#ofPool.get(pool)
    if (handles === undefined) this.#ofPool.set(pool, (handles = new Set()))
    return handles
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
