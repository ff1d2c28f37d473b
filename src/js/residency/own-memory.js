'use strict'

// Measures what loads take in this process. One process has one footprint: loads and unloads that overlap are measured
// together, and each gets its part by its size.

const { getHeapStatistics } = require('node:v8')
const { collectGarbage } = require('../core/gc.js')
const { setTimeout } = require('../core/runtime.js')
const { factsOf } = require('../devices/doctor/facts.js')
const { makeReader } = require('../devices/doctor/reader.js')
const { sampleOf } = require('../models/process-memory.js')

/**
 * @typedef {{ bytes: number, held: number }} Measured bytes, and those that the kernel cannot take back
 *
 * @typedef {object} Change a load or an unload under way
 * @property {number} reserved the most bytes that the model takes; 0 for an unload
 * @property {number} held bytes that it had before: an unload gives them back, a load has them already
 * @property {(measured: Measured | null) => void} measured gets what the model has after it
 *
 * @typedef {{ before: Measured | null, heap: number, begun: number }} Mark a state to compare with
 */

/** Bytes that stay are told from those of other code and of caches by their size. */
const MIN_KEPT = 32 * 2 ** 20
const MIN_KEPT_SHARE = 0.15
/** The engine unmaps collected buffers in this time. */
const SETTLE_MS = 50
/** Memory comes back in the time of these waits, in ms; then it is kept. */
const WAITS = [0, 50, 100, 200, 400, 800, 1600]

/** Bun gives memory back late, and counts buffers late: there the footprint tells nothing of one unload. */
const isTold = process.versions.bun === undefined

class OwnMemory {
  /** @type {Set<Change>} */
  #running = new Set()
  /** @type {Change[]} */
  #ended = []
  /** @type {Measured | null} */
  #before = null
  /** @type {string[] | undefined} */
  #nodes

  /**
   * Returns the footprint of this process, without those that it started; null where the kernel does not tell.
   *
   * @returns {Measured | null}
   */
  footprint() {
    const reader = makeReader()
    this.#nodes ??= factsOf(reader).nodes.map(({ path }) => path)
    const sample = sampleOf(reader, process.pid, this.#nodes, [process.pid])
    return sample === null ? null : { bytes: sample.footprint, held: sample.footprint - sample.file }
  }

  /** Number of changes that began: a measurement with others in between is none. */
  #begun = 0

  /**
   * Collects the garbage of other code, whose memory would be taken for that of the model that is unloaded next.
   *
   * @param {number} held bytes of that model
   */
  async settle(held) {
    if (held <= MIN_KEPT || !isTold) return
    collectGarbage()
    await new Promise((resolve) => void setTimeout(resolve, SETTLE_MS))
  }

  /** @param {Change} change */
  begin(change) {
    if (this.#running.size === 0) this.#before = this.footprint()
    this.#running.add(change)
    this.#begun++
  }

  /** Whether no load and no unload runs. */
  get isQuiet() {
    return this.#running.size === 0
  }

  /** The present state, to compare with: before an unload, and after a load. */
  mark() {
    const before = this.#running.size === 1 ? this.#before : this.footprint()
    return { before, heap: heapBytes(), begun: this.#begun }
  }

  /**
   * Returns the bytes that the process has lost since a mark, also by the mark of an unload that began; null if that
   * cannot be told.
   *
   * @param {Mark} mark
   * @param {Mark} [to] of the unload
   */
  lostSince(mark, to) {
    const after = to === undefined ? this.footprint() : to.before
    // One footprint ends this span and begins the next: memory that goes between two would be in neither.
    const begun = to === undefined ? this.#begun : to.begun - 1
    if (mark.before === null || after === null || mark.begun !== begun) return null
    // Growth of JavaScript's heap meanwhile is not the model's.
    const grown = Math.max(0, (to?.heap ?? heapBytes()) - mark.heap)
    return mark.before.held - (after.held - grown)
  }

  /**
   * Returns the bytes of `held` that the process still has; 0 if they are back or if it cannot be told.
   *
   * @param {number} held
   * @param {Mark} mark
   */
  keptOf(held, mark) {
    const kept = Math.floor(held - (this.lostSince(mark) ?? held))
    return kept > Math.max(MIN_KEPT, MIN_KEPT_SHARE * held) ? Math.min(kept, held) : 0
  }

  /**
   * Waits until the bytes of an unloaded model are back. Returns those that are kept.
   *
   * @param {number} held
   * @param {Mark} mark
   */
  async awaitReturn(held, mark) {
    if (held <= MIN_KEPT || !isTold) return 0
    let kept = 0
    for (const [at, ms] of WAITS.entries()) {
      if (ms > 0) await new Promise((resolve) => void setTimeout(resolve, ms))
      kept = this.keptOf(held, mark)
      if (kept === 0) return 0
      // Memory that JavaScript has dropped is back after a collection, and some turns of the event loop.
      if (at < 2) collectGarbage()
    }
    return kept
  }

  /**
   * Ends a change. Its bytes are known once all changes that overlap with it have ended.
   *
   * @param {Change} change
   */
  end(change) {
    this.#running.delete(change)
    this.#ended.push(change)
    if (this.#running.size > 0) return
    const ended = this.#ended
    this.#ended = []
    const [before, after] = [this.#before, this.footprint()]
    const loads = ended.filter(({ reserved }) => reserved > 0)
    const total = loads.reduce((sum, { reserved }) => sum + reserved, 0)
    const given = ended.reduce((sum, { reserved, held }) => sum + (reserved > 0 ? 0 : held), 0)
    for (const { measured, reserved, held } of loads) {
      const part = (/** @type {keyof Measured} */ of) =>
        Math.floor(Math.max(0, held + (((after?.[of] ?? 0) - (before?.[of] ?? 0) + given) * reserved) / total))
      measured(before === null || after === null ? null : { bytes: part('bytes'), held: part('held') })
    }
  }
}

/** Bytes of JavaScript's heap, and of what it holds outside. */
function heapBytes() {
  const { total_heap_size: heap, external_memory: external } = getHeapStatistics()
  return heap + external
}

/** All residencies of this thread measure the same process. */
const ownMemory = new OwnMemory()

module.exports = { ownMemory }
