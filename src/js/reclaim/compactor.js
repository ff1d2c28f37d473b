'use strict'

// Compacts pools: on demand in one go, and in the background in slices.

const native = require('../core/binding.js')
const { check } = require('../core/options.js')
const schemas = require('./options.js')
const { clearTimeout, now, setTimeout } = require('../core/runtime.js')

/** Background compaction starts above this fragmentation. */
const DEFRAGMENT_ABOVE = 0.5
/** The delay after the first free, so that a burst of frees is one compaction. */
const BURST_MS = 50
/** The delay after which a pool is looked at again whose holes wait (`reuseAfterMs`). */
const WAIT_MS = 250
/** The budget of one slice: how long it may block the event loop, beside V8's own collections. */
const SLICE_MS = 0.5
const SLICE_BYTES = 2 ** 21
const SLICE_MOVES = 128
/** The numbers that describe one move. */
const MOVE_FIELDS = 6
const NO_MOVES = new Float64Array(0)

/**
 * @typedef {import('../types/compaction.js').BlockMove} BlockMove
 * @typedef {import('../types/compaction.js').DefragmentResult} DefragmentResult
 */

class Compactor {
  #above
  #buffers
  #events
  /** Pools that wait for background compaction → whether their fragmentation was found high enough. */
  /** @type {Map<number, boolean>} */
  #waiting = new Map()
  /** @type {Set<number>} Pools whose holes wait: they are looked at again. */
  #later = new Set()
  /** @type {NodeJS.Timeout | undefined} */
  #timer
  /** The moves of a slice, written by the native part. */
  #moves = new Float64Array(MOVE_FIELDS * SLICE_MOVES)

  /**
   * @param {{ defragmentAbove?: number | null }} options
   * @param {{ viewOf(handle: number): ArrayBuffer | undefined }} buffers
   * @param {import('../core/manager-events.js').ManagerEvents} events
   */
  constructor({ defragmentAbove = DEFRAGMENT_ABOVE }, buffers, events) {
    this.#above = defragmentAbove
    this.#buffers = buffers
    this.#events = events
  }

  /**
   * Implements `pool.defragment`.
   *
   * @param {number} pool
   * @param {unknown} options
   * @returns {DefragmentResult}
   */
  defragment(pool, options) {
    const caps = check('defragment', options, schemas.defragment)
    const began = now()
    const { moves: numbers, moved, stopped: _, failure, ...figures } = native.poolDefragment(pool, caps, this.#viewOf)
    const moves = movesOf(numbers ?? NO_MOVES, moved)
    if (moved > 0) this.#events.emitLater('relocated', moves)
    if (failure) throw failure
    return { moves, ...figures, durationMs: now() - began }
  }

  /**
   * Schedules background compaction of a pool in which a movable block was freed.
   *
   * @param {number} pool
   */
  scheduleCompaction(pool) {
    if (this.#above === null) return
    if (!this.#waiting.has(pool)) this.#waiting.set(pool, false)
    // Set once, not anew at each free: a burst that goes on does not delay it. The timer does not keep the event loop
    // alive.
    this.#timer ??= setTimeout(() => this.#runSlice(), BURST_MS).unref()
  }

  /**
   * Compacts one slice of a pool. A failure has no caller to throw to: the pool counts as finished then.
   *
   * @param {number} pool
   */
  step(pool) {
    try {
      const done = native.poolDefragmentSlice(pool, SLICE_MS, SLICE_BYTES, this.#moves, this.#viewOf)
      const { moved, stopped, bytesFreed, failure, fragmentationAfter: fragmentation } = done
      if (moved > 0) this.#events.emitLater('relocated', movesOf(this.#moves, moved))
      const idle = moved === 0
      return { finished: failure !== undefined || (idle && !stopped), bytesFreed, fragmentation, idle: idle && stopped }
    } catch {
      return { finished: true, bytesFreed: 0, fragmentation: 0, idle: false } // destroyed between two slices
    }
  }

  /** Stops background compaction for good. */
  end() {
    clearTimeout(this.#timer)
    this.#waiting.clear()
    this.#later.clear()
    this.#above = null
  }

  /** @param {number} handle */
  #viewOf = (handle) => this.#buffers.viewOf(handle)

  #runSlice() {
    this.#timer = undefined
    for (const pool of this.#later) if (!this.#waiting.has(pool)) this.#waiting.set(pool, false)
    this.#later.clear()
    for (const [pool, worthwhile] of this.#waiting) {
      if (!worthwhile && !this.#isWorthwhile(pool)) {
        this.#waiting.delete(pool)
        continue
      }
      const { finished, fragmentation } = this.step(pool)
      // With nothing left to move, the pool waits for its next freed block.
      if (finished || !this.#isAbove(fragmentation)) this.#waiting.delete(pool)
      else this.#waiting.set(pool, true)
      break
    }
    if (this.#waiting.size > 0 && this.#above !== null) this.#wake(1)
    else if (this.#later.size > 0 && this.#above !== null) this.#wake(WAIT_MS)
  }

  /** @param {number} ms */
  #wake(ms) {
    this.#timer = setTimeout(() => this.#runSlice(), ms).unref()
  }

  /**
   * Returns whether compaction of a pool gains something. Holes that wait cannot be filled yet: the pool is looked at
   * again later.
   *
   * @param {number} pool
   */
  #isWorthwhile(pool) {
    if (native.poolMovables(pool) === 0) return false
    const { free, waiting, fragmentation } = native.poolStats(pool)
    if (!this.#isAbove(fragmentation)) return false
    if (waiting > 0) this.#later.add(pool)
    return waiting < free / 2
  }

  /** @param {number} fragmentation */
  #isAbove(fragmentation) {
    return this.#above !== null && fragmentation > this.#above
  }
}

/**
 * The first `count` moves of a slice, as objects.
 *
 * @param {Float64Array} numbers
 * @param {number} count
 */
function movesOf(numbers, count) {
  /** @type {BlockMove[]} */
  const moves = []
  for (let at = 0; at < MOVE_FIELDS * count; at += MOVE_FIELDS) {
    const from = { chunk: numbers[at + 1], offset: numbers[at + 2] }
    const to = { chunk: numbers[at + 3], offset: numbers[at + 4] }
    moves.push({ id: numbers[at], from, to, size: numbers[at + 5] })
  }
  return moves
}

module.exports = { Compactor }
