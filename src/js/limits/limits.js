'use strict'

// What a user bounds, and what is kept free for others.

const { inspect } = require('node:util')
const { human } = require('../core/format-bytes.js')
const { check, integer, invalid, outOfRange, shown } = require('../core/options.js')

/** Shares of a limit at which 'warning' fires unless others are named. */
const WARN_AT = Object.freeze([0.8, 0.95])

const max = (name, value) => (value === null ? null : integer(name, value, 0))

function warnAt(name, value) {
  if (!Array.isArray(value)) throw invalid(`${name} must be an array of shares, not ${shown(value)}`)
  return Array.from(value, (share, at) => {
    if (typeof share !== 'number') throw invalid(`${name}[${at}] must be a number, not ${shown(share)}`)
    if (!(share > 0 && share <= 1)) throw outOfRange(`${name}[${at}] is ${share}; it must be above 0 and at most 1`)
    return share
  }).sort((a, b) => a - b)
}

/** A limit with nothing left out. */
function limit(name, value) {
  const { max: most = null, warnAt: shares = [...WARN_AT] } = check(name, value, { max, warnAt })
  return { max: most, warnAt: shares }
}

function tags(name, value) {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(`${name} must be an object of limits by tag, not ${shown(value)}`)
  }
  return Object.entries(value)
    .filter(([, of]) => of !== undefined)
    .map(([tag, of]) => [tag, limit(`${name}[${JSON.stringify(tag)}]`, of)])
}

const SCHEMA = { npu: limit, system: limit, total: limit, tags }

/** A manager's limits as they were set. The native part enforces them. */
class Limits {
  #set
  #scopes = { npu: limit('npu', {}), system: limit('system', {}), total: limit('total', {}) }
  #tags = new Map()

  /** @param {(limits: object) => void} set */
  constructor(set) {
    this.#set = set
  }

  /** The limits named in `options`, checked: what `apply` takes. */
  static check(what, options) {
    return check(what, options, SCHEMA)
  }

  /** Changes those limits; those that are not among them stay. */
  apply({ tags = [], ...scopes }) {
    const native = ({ max, warnAt }) => ({ max: max ?? undefined, warnAt })
    this.#set({
      ...Object.fromEntries(Object.entries(scopes).map(([scope, of]) => [scope, native(of)])),
      tags: tags.map(([tag, of]) => ({ tag, limit: native(of) })),
    })
    Object.assign(this.#scopes, scopes)
    for (const [tag, of] of tags) {
      if (of.max === null) this.#tags.delete(tag)
      else this.#tags.set(tag, of)
    }
  }

  /** A copy, for the user to keep. */
  get() {
    // Without a prototype for a moment: a tag may be called "__proto__".
    const tags = Object.fromEntries(this.#tags)
    return structuredClone({ ...this.#scopes, tags })
  }
}

/** Reservations that were dropped without `release`: they end, and somebody should hear of it. */
const dropped = new FinalizationRegistry(({ release, what }) => {
  if (!release()) return
  process.emitWarning(`A reservation of ${what} was dropped without release(): it is released now.`, {
    code: 'RKLLM_RESERVATION_DROPPED',
    detail: 'Keep it for as long as the memory is somebody else\'s, then call release(), or declare it with "using".',
  })
})

/** Only the manager makes reservations. */
const ours = Symbol('made by a MemoryManager')

/** Memory that is kept free for somebody else's allocations. */
class Reservation {
  #size
  /** Ends it; false when it, or its manager, was ended before. Gone once it was called here. */
  #release

  constructor(made, size, tag, release) {
    if (made !== ours) throw invalid('a Reservation is made by manager.reserve')
    this.#size = size
    this.#release = release
    const what = tag === undefined ? human(size) : `${human(size)} (${shown(tag)})`
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

  [inspect.custom](depth, options) {
    if (!(#size in this)) return inspect(Object.create(null), options)
    return `${options.stylize('Reservation', 'special')} (${human(this.#size)}${this.released ? ', released' : ''})`
  }
}

if (Symbol.dispose !== undefined) {
  Object.defineProperty(Reservation.prototype, Symbol.dispose, {
    value() {
      this.release()
    },
    configurable: true,
    writable: true,
  })
}

const makeReservation = (size, tag, release) => new Reservation(ours, size, tag, release)

module.exports = { Limits, makeReservation }
