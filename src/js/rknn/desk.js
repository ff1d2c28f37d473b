'use strict'

// System memory of the C structs that calls pass: texts, arguments, and what the runtime fills in.

const { TextEncoder } = require('../core/runtime.js')
const { roundUp, write } = require('../inference/layouts.js')

/** Structs begin at cache lines. */
const LINE = 64
const encoder = new TextEncoder()

/**
 * @typedef {import('../inference/layouts.js').Layout} Layout
 * @typedef {{ view: DataView, at: number, address: bigint }} Place
 */

class Desk {
  #allocate
  #bytes = 0

  /** @param {(bytes: number) => { buffer: ArrayBuffer, address: bigint }} allocate zeroed system memory */
  constructor(allocate) {
    this.#allocate = allocate
  }

  /** Bytes of all places. */
  get bytes() {
    return this.#bytes
  }

  /**
   * Places for structs of one kind.
   *
   * @param {number} size of one
   * @param {number} count
   * @returns {Place[]}
   */
  take(size, count) {
    const step = roundUp(size, LINE)
    const bytes = step * count
    const { buffer, address } = this.#allocate(bytes)
    this.#bytes += bytes
    const view = new DataView(buffer)
    return Array.from({ length: count }, (_, at) => ({ view, at: at * step, address: address + BigInt(at * step) }))
  }

  /**
   * A text as a C string. Returns its address.
   *
   * @param {string} text without a NUL
   */
  text(text) {
    const bytes = encoder.encode(`${text}\0`)
    const [{ view, at, address }] = this.take(bytes.length, 1)
    new Uint8Array(view.buffer, at, bytes.length).set(bytes)
    return address
  }

  /**
   * Writes fields of a struct.
   *
   * @param {Place} place
   * @param {Layout} layout
   * @param {Record<string, number | bigint | boolean>} values
   */
  fill({ view, at }, layout, values) {
    write(view, at, layout, values)
  }
}

module.exports = { Desk }
