'use strict'

// Measures what loads take in this process. One process has one footprint: loads and unloads that overlap are measured
// together, and each gets its part by its size.

const { factsOf } = require('../devices/doctor/facts.js')
const { makeReader } = require('../devices/doctor/reader.js')
const { sampleOf } = require('../models/process-memory.js')

/**
 * @typedef {object} Change a load or an unload under way
 * @property {number} reserved the most bytes that the model takes
 * @property {number} held bytes that it had before: an unload gives them back
 * @property {(bytes: number | null) => void} measured gets what the model has after it
 */

class OwnMemory {
  /** @type {Set<Change>} */
  #running = new Set()
  /** @type {Change[]} */
  #ended = []
  /** @type {number | null} */
  #before = null
  /** @type {string[] | undefined} */
  #nodes

  /** Returns the footprint of this process; null where the kernel does not tell. */
  footprint() {
    const reader = makeReader()
    this.#nodes ??= factsOf(reader).nodes.map(({ path }) => path)
    return sampleOf(reader, process.pid, this.#nodes, [process.pid])?.footprint ?? null
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
    const after = this.footprint()
    const loads = ended.filter(({ reserved }) => reserved > 0)
    const given = ended.reduce((sum, { reserved, held }) => sum + (reserved > 0 ? 0 : held), 0)
    const total = loads.reduce((sum, { reserved }) => sum + reserved, 0)
    const grown = after === null || this.#before === null ? null : Math.max(0, after - this.#before + given)
    for (const { measured, reserved } of ended)
      measured(grown === null || reserved === 0 ? null : Math.floor((grown * reserved) / total))
  }
}

/** All residencies of this thread measure the same process. */
const ownMemory = new OwnMemory()

module.exports = { ownMemory }
