'use strict'

// The limits of one manager: checked and remembered here, enforced by the native part.

const native = require('../core/binding.js')
const { check, integer, invalid, outOfRange, formatValue } = require('../core/options.js')

/** The default shares of a limit at which 'warning' fires. */
const WARN_AT = Object.freeze([0.8, 0.95])

/** @typedef {{ max: number | null, warnAt: number[] }} FullLimit a limit with nothing left out */

/** @type {import('../core/options.js').Validator<number | null>} */
const max = (name, value) => (value === null ? null : integer(name, value, 0))

/** @type {import('../core/options.js').Validator<number[]>} */
function warnAt(name, value) {
  if (!Array.isArray(value)) throw invalid(`${name} must be an array of shares, not ${formatValue(value)}`)
  return Array.from(value, (share, at) => {
    if (typeof share !== 'number') throw invalid(`${name}[${at}] must be a number, not ${formatValue(share)}`)
    if (!(share > 0 && share <= 1)) throw outOfRange(`${name}[${at}] is ${share}; it must be above 0 and at most 1`)
    return share
  }).sort((a, b) => a - b)
}

/** @type {import('../core/options.js').Validator<FullLimit>} */
function limit(name, value) {
  const { max: most = null, warnAt: shares = [...WARN_AT] } = check(name, value, { max, warnAt })
  return { max: most, warnAt: shares }
}

/** @type {import('../core/options.js').Validator<[tag: string, limit: FullLimit][]>} */
function tags(name, value) {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(`${name} must be an object of limits by tag, not ${formatValue(value)}`)
  }
  return Object.entries(value)
    .filter(([, of]) => of !== undefined)
    .map(([tag, of]) => [tag, limit(`${name}[${JSON.stringify(tag)}]`, of)])
}

/** @typedef {import('../core/options.js').Checked<typeof SCHEMA>} CheckedLimits */

const SCHEMA = { npu: limit, system: limit, total: limit, tags }

/** A manager's limits as they were set. */
class Limits {
  #handle
  #notifications
  #scopes = { npu: limit('npu', {}), system: limit('system', {}), total: limit('total', {}) }
  /** @type {Map<string, FullLimit>} */
  #tags = new Map()

  /**
   * @param {import('../core/manager-handle.js').ManagerHandle} handle
   * @param {import('../core/notifications.js').Notifications} notifications
   */
  constructor(handle, notifications) {
    this.#handle = handle
    this.#notifications = notifications
  }

  /**
   * Checks the limits in `options`, for `apply`.
   *
   * @param {string} what
   * @param {unknown} options
   */
  static check(what, options) {
    return check(what, options, SCHEMA)
  }

  /**
   * Changes these limits. Limits that are not named stay.
   *
   * @param {CheckedLimits} limits
   */
  apply({ tags = [], ...scopes }) {
    const request = (/** @type {FullLimit} */ { max, warnAt }) => ({ max: max ?? undefined, warnAt })
    native.setLimits(this.#handle.value, {
      ...Object.fromEntries(Object.entries(scopes).map(([scope, of]) => [scope, request(of)])),
      tags: tags.map(([tag, of]) => ({ tag, limit: request(of) })),
    })
    this.#notifications.poll()
    Object.assign(this.#scopes, scopes)
    for (const [tag, of] of tags) {
      if (of.max === null) this.#tags.delete(tag)
      else this.#tags.set(tag, of)
    }
  }

  /** Returns a copy. */
  get() {
    // Not assigned one by one: a tag may be called "__proto__".
    const tags = Object.fromEntries(Array.from(this.#tags, ([tag, of]) => [tag, copyOf(of)]))
    const { npu, system, total } = this.#scopes
    return { npu: copyOf(npu), system: copyOf(system), total: copyOf(total), tags }
  }
}

/** @type {(of: FullLimit) => FullLimit} */
const copyOf = ({ max, warnAt }) => ({ max, warnAt: [...warnAt] })

module.exports = { Limits }
