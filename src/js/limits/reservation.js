'use strict'

const { inspect } = require('node:util')
const native = require('../core/binding.js')
const { publicClass } = require('../core/border.js')
const { defineDispose } = require('../core/disposable.js')
const { formatBytes } = require('../core/format-bytes.js')
const { inspectNonInstance } = require('../core/inspect-non-instance.js')
const { check, integer, invalid, kinds, formatValue } = require('../core/options.js')

/** The options of `manager.reserve`. */
const reservationOptions = {
  kind: kinds.oneOf('npu', 'system'),
  tag: kinds.tag,
  iommuDomain: kinds.integer(0, 2 ** 31 - 1),
}

/** Releases reservations that were dropped without `release`, and warns of them. */
const dropped = new FinalizationRegistry(
  (/** @type {{ release: () => boolean, what: string }} */ { release, what }) => {
    if (!release()) return
    process.emitWarning(`A reservation of ${what} was dropped without release(): it is released now.`, {
      code: 'RKLLM_RESERVATION_DROPPED',
      detail: 'Keep it while the other allocator uses the memory, then call release(), or declare it with "using".',
    })
  },
)

/** The construction key: only `makeReservation` has it. */
const kConstruct = Symbol('constructed by a MemoryManager')

/** Memory that is kept free for another allocator. */
class Reservation {
  #size
  /**
   * Ends it; returns false if it, or its manager, was ended before. Undefined once released.
   *
   * @type {(() => boolean) | undefined}
   */
  #release

  /**
   * @param {symbol} key
   * @param {number} size
   * @param {string | undefined} tag
   * @param {() => boolean} release
   */
  constructor(key, size, tag, release) {
    if (key !== kConstruct) throw invalid('a Reservation is made by manager.reserve')
    this.#size = size
    this.#release = release
    const what = tag === undefined ? formatBytes(size) : `${formatBytes(size)} (${formatValue(tag)})`
    dropped.register(this, { release, what }, this)
  }

  get size() {
    return this.#size
  }

  get released() {
    return this.#release === undefined
  }

  release() {
    dropped.unregister(this)
    this.#release?.()
    this.#release = undefined
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
  return new Reservation(kConstruct, size, tag, () => native.releaseReservation(handle, id))
}

module.exports = { makeReservation }
