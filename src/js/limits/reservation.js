'use strict'

const { inspect } = require('node:util')
const native = require('../core/binding.js')
const { publicClass } = require('../core/border.js')
const { defineDispose } = require('../core/disposable.js')
const { formatBytes } = require('../core/format-bytes.js')
const { inspectNonInstance } = require('../core/inspect-non-instance.js')
const { check, integer, invalid, kinds } = require('../core/options.js')

/** The options of `manager.reserve`. */
const reservationOptions = {
  kind: kinds.oneOf('npu', 'system'),
  tag: kinds.tag,
  iommuDomain: kinds.integer(0, 2 ** 31 - 1),
}

/** The construction key: only `makeReservation` has it. */
const kConstruct = Symbol('constructed by a MemoryManager')

/**
 * Memory that is kept free for another allocator. The native manager holds it: dropping this object releases nothing,
 * because a program that reserves at its start has no reason to look at the reservation again.
 */
class Reservation {
  #size
  #isLive
  #release

  /**
   * @param {symbol} key
   * @param {number} size
   * @param {() => boolean} isLive
   * @param {() => void} release
   */
  constructor(key, size, isLive, release) {
    if (key !== kConstruct) throw invalid('a Reservation is made by manager.reserve')
    this.#size = size
    this.#isLive = isLive
    this.#release = release
  }

  get size() {
    return this.#size
  }

  get released() {
    return !this.#isLive()
  }

  release() {
    this.#release()
  }

  /**
   * @param {number} _depth
   * @param {import('node:util').InspectOptionsStylized} options
   */
  [inspect.custom](_depth, options) {
    if (!(#size in this)) return inspectNonInstance(options)
    const state = this.released ? ', released' : ''
    return `${options.stylize('Reservation', 'special')} (${formatBytes(this.#size)}${state})`
  }

  static {
    defineDispose(Reservation, function dispose() {
      this.release()
    })
    publicClass(Reservation, (value) => #size in value)
  }
}

/**
 * Implements `manager.reserve`.
 *
 * @param {number} handle of the native manager
 * @param {number} size
 * @param {unknown} options
 */
function makeReservation(handle, size, options) {
  integer('size', size, 1)
  const { kind = 'npu', tag, iommuDomain } = check('reserve', options, reservationOptions)
  const id = native.reserve(handle, kind === 'npu', size, tag, iommuDomain)
  const isLive = () => native.reservationIsLive(handle, id)
  return new Reservation(kConstruct, size, isLive, () => native.releaseReservation(handle, id))
}

module.exports = { makeReservation }
