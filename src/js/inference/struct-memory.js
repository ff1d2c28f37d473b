'use strict'

// Memory of C structs and of the texts that they point to: offsets by name, within one block of the session's pool.

const { memoryError } = require('../core/errors.js')
const { invalid, outOfRange, formatValue } = require('../core/options.js')
const { Buffer, TextEncoder } = require('../core/runtime.js')
const { roundUp, write } = require('./layouts.js')

/** Structs begin at cache lines, so that no two share a line. */
const LINE = 64
/** Linux's PATH_MAX: a path with its final NUL. */
const PATH_BYTES = 4096
/** Room for a role or a marker, and for the name of a LoRA adapter, in UTF-8 with the final NUL. */
const [LABEL_BYTES, LORA_NAME_BYTES] = [64, 256]

const encoder = new TextEncoder()

/**
 * @typedef {import('./layouts.js').Layout} Layout
 * @typedef {Record<string, number | bigint | boolean>} Values
 */

/**
 * Lays out places one after the other. Returns their offsets by name, and the total `bytes`.
 *
 * @param {Record<string, number>} sizes
 * @returns {Record<string, number>}
 */
function placeAll(sizes) {
  let bytes = 0
  /** @type {Record<string, number>} */
  const places = {}
  for (const [name, size] of Object.entries(sizes)) {
    places[name] = bytes
    bytes = roundUp(bytes + size, LINE)
  }
  return { ...places, bytes }
}

class StructMemory {
  #header
  #places
  #base
  #bytes
  #view

  /**
   * @param {string} header the version of rkllm.h
   * @param {Record<string, number>} places offsets by name
   * @param {ArrayBuffer} buffer
   * @param {bigint} base the address of `buffer`
   */
  constructor(header, places, buffer, base) {
    this.#header = header
    this.#places = places
    this.#base = base
    this.#bytes = new Uint8Array(buffer)
    this.#view = new DataView(buffer)
  }

  get gone() {
    return this.#bytes.length === 0
  }

  /** @param {string} place */
  addressOf(place) {
    return this.#base + BigInt(this.#places[place])
  }

  /**
   * Zeroes the places from `from` to before `to`, or to the end.
   *
   * @param {string} from
   * @param {string} [to]
   */
  clear(from, to) {
    this.#bytes.fill(0, this.#places[from], to === undefined ? undefined : this.#places[to])
  }

  /**
   * Writes a struct of `values`, zero elsewhere. Returns its address.
   *
   * @param {string} place
   * @param {Layout} layout
   * @param {Values} values
   * @param {number} [index] of an array of structs
   */
  fill(place, layout, values, index = 0) {
    const at = this.#places[place] + index * layout.size
    this.#bytes.fill(0, at, at + layout.size)
    write(this.#view, at, layout, values)
    return this.#base + BigInt(at)
  }

  /**
   * Writes a C string to its place. Returns its address. Writes nothing of a text that is refused.
   *
   * @param {string} what
   * @param {string} place
   * @param {number} room
   * @param {unknown} text
   * @param {string} [hint]
   */
  text(what, place, room, text, hint) {
    const checked = cString(what, text, room, hint)
    const at = this.#places[place]
    const bytes = this.#bytes.subarray(at, at + room)
    const { written } = encoder.encodeInto(checked, bytes)
    bytes.fill(0, written)
    return this.#base + BigInt(at)
  }

  /**
   * @param {string} what
   * @param {string} option
   * @param {string} hint
   */
  unsupported(what, option, hint) {
    return memoryError('ERR_UNSUPPORTED', `${what}: rkllm.h ${this.#header} has no ${option}`, { hint })
  }
}

/**
 * Checks that `text` can be a C string of UTF-8 in `room` bytes, and returns it.
 *
 * @param {string} what
 * @param {unknown} text
 * @param {number} room
 * @param {string} [hint]
 */
function cString(what, text, room, hint) {
  if (typeof text !== 'string') throw invalid(`${what} must be a string, not ${formatValue(text)}`)
  if (text.includes('\0')) throw outOfRange(`${what} has a NUL in it, which would end it in C`)
  const lone = text.search(/\p{Surrogate}/u)
  if (lone !== -1) throw outOfRange(`${what} has half of a surrogate pair at index ${lone}, which UTF-8 cannot say`)
  // A UTF-16 unit takes at most three bytes.
  if (3 * text.length < room) return text
  const requested = Buffer.byteLength(text) + 1
  if (requested <= room) return text
  throw outOfRange(`${what} takes ${requested} bytes of UTF-8 with its final NUL, and there is room for ${room}`, {
    requested,
    limit: room,
    ...(hint && { hint }),
  })
}

module.exports = { LABEL_BYTES, LORA_NAME_BYTES, PATH_BYTES, StructMemory, cString, placeAll }
