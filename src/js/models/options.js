'use strict'

const { check, invalid, kinds, formatValue, outOfRange } = require('../core/options.js')
const { DTYPES, numbersOf } = require('./dtypes.js')

/**
 * @template T
 * @typedef {import('../core/options.js').Validator<T>} Validator
 */
/**
 * @template {import('../core/options.js').Schema} S
 * @typedef {import('../core/options.js').Checked<S>} Checked
 */

/** A ModelSpec. */
const model = {
  path: kinds.string,
  weightBytes: kinds.integer(1),
  /** @type {Validator<string | Record<string, unknown>>} */
  config: (name, value) => {
    if (typeof value === 'string') return value
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      return /** @type {Record<string, unknown>} */ (value)
    }
    throw invalid(`${name} must be a path or an object, not ${formatValue(value)}`)
  },
  layers: kinds.integer(1, 4096),
  hiddenSize: kinds.integer(1, 2 ** 24),
  kvHeads: kinds.integer(1, 2 ** 16),
  headDim: kinds.integer(1, 2 ** 16),
  vocabSize: kinds.integer(1, 2 ** 28),
  contextLength: kinds.integer(1, 2 ** 31 - 1),
  batch: kinds.integer(1, 4096),
  kvBytesPerElement: kinds.integer(1, 8),
  dtype: kinds.oneOf(...DTYPES),
  /** @type {Validator<string>} */
  runtime: (name, value) => {
    const version = kinds.string(name, value)
    if (numbersOf(version) === null) throw outOfRange(`${name} is ${formatValue(value)}; it must be as "1.2.3"`)
    return version
  },
  embedFlash: kinds.boolean,
  /** @type {Validator<string | false>} */
  calibration: (name, value) => (value === false ? false : kinds.string(name, value)),
  soc: kinds.string,
  type: kinds.oneOf('language', 'vision'),
}

/** A ModelSpec of `planModels`. */
const plannedModel = { ...model, name: kinds.string, group: kinds.string }

/** The options of `planModels`. */
const plan = {
  /** @type {Validator<Checked<typeof domainUse>[]>} */
  domains: (name, value) => {
    if (Array.isArray(value)) return value.map((domain, i) => check(`${name}[${i}]`, domain, domainUse))
    throw invalid(`${name} must be an array of DomainStats, not ${formatValue(value)}`)
  },
  /** @type {Validator<number | null>} */
  ramAvailable: (name, value) => (value === null ? null : kinds.integer(0)(name, value)),
  keepFree: kinds.integer(0),
  spread: kinds.boolean,
}

const domainUse = {
  id: kinds.integer(0, 2 ** 31 - 1),
  total: kinds.integer(0),
  used: kinds.integer(0),
  reservedForOthers: kinds.integer(0),
}

module.exports = { model, plan, plannedModel }
