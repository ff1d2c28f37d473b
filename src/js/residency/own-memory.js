'use strict'

// Measures what loads take in this process. One process has one footprint: loads and unloads that overlap are measured
// together, and each gets its part by its size.

const { factsOf } = require('../devices/doctor/facts.js')
const { makeReader } = require('../devices/doctor/reader.js')
const { sampleOf } = require('../models/process-memory.js')

/**
 * @typedef {{ bytes: number, held: number }} Measured bytes, and those that the kernel cannot take back
 *
 * @typedef {object} Change a load or an unload under way
 * @property {number} reserved the most bytes that the model takes; 0 for an unload
 * @property {number} held bytes that it had before: an unload gives them back
 * @property {(measured: Measured | null) => void} measured gets what the model has after it
 */

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

  /** @param {Change} change */
  begin(change) {
    if (this.#running.size === 0) this.#before = this.footprint()
    this.#running.add(change)
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
    for (const { measured, reserved } of loads) {
      const part = (/** @type {keyof Measured} */ of) =>
        Math.floor((Math.max(0, (after?.[of] ?? 0) - (before?.[of] ?? 0) + given) * reserved) / total)
      measured(before === null || after === null ? null : { bytes: part('bytes'), held: part('held') })
    }
  }
}

/** All residencies of this thread measure the same process. */
const ownMemory = new OwnMemory()

module.exports = { ownMemory }
