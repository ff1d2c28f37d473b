'use strict'

// The ArrayBuffers that one manager handed out and that `dispose` has to detach.

const native = require('../core/binding.js')

/** The first sweep happens at this many entries; each later one at twice as many as the last sweep left. */
const FIRST_SWEEP = 256

/** @typedef {{ id?: number, movable: boolean }} BlockLabel the label of a block, for the diagnostics channels */

/**
 * @typedef {object} Entry
 * @property {WeakRef<ArrayBuffer>} view
 * @property {number | undefined} pool the native pool it is of
 * @property {BlockLabel | undefined} block the label of its block
 */

class LiveBuffers {
  /** @type {Map<number, Entry>} By allocation id. Entries of collected buffers stay until a sweep. */
  #entries = new Map()
  #sweepAt = FIRST_SWEEP

  /**
   * @param {number} id
   * @param {ArrayBuffer} buffer
   * @param {number} [pool]
   * @param {BlockLabel} [block]
   */
  add(id, buffer, pool, block) {
    if (this.#entries.size >= this.#sweepAt) this.#sweep()
    this.#entries.set(id, { view: new WeakRef(buffer), pool, block })
  }

  /**
   * The buffer over an allocation, unless it was collected.
   *
   * @param {number} id
   */
  viewOf(id) {
    return this.#entries.get(id)?.view.deref()
  }

  /**
   * The label of the block that a buffer is over.
   *
   * @param {number} id
   */
  blockOf(id) {
    return this.#entries.get(id)?.block
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
    for (const [id, { view }] of this.#entries) {
      if (view.deref() === undefined || !native.isLive(id)) this.#entries.delete(id)
    }
    this.#sweepAt = Math.max(FIRST_SWEEP, this.#entries.size * 2)
  }
}

module.exports = { LiveBuffers }
