'use strict'

// `@rkllmjs/memory/opentelemetry`: registers a manager's figures as observable instruments.

const { version } = require('../../../package.json')
const { publicFunction } = require('../core/border.js')
const { check, invalid, formatValue } = require('../core/options.js')
const { PREFIX, families, samplesOf } = require('./families.js')
const { readerOf } = require('./reader.js')

/** Units in UCUM. */
const UNITS = { bytes: 'By', ratio: '1', seconds: 's', '': undefined }

/**
 * @typedef {import('@opentelemetry/api').Attributes} Attributes
 * @typedef {import('@opentelemetry/api').Meter} Meter
 * @typedef {import('./family.js').Family} Family
 */

/** @type {typeof import('./opentelemetry.js').registerMetrics} */
function registerMetrics(target, manager, options) {
  const read = readerOf(manager)
  const { attributes = {} } = check('registerMetrics', options, schema)
  const meter = meterOf(target)
  /** @type {Map<Family, import('@opentelemetry/api').Observable>} */
  const instruments = new Map()
  for (const family of families) {
    // OpenTelemetry has no instrument for a histogram that was recorded elsewhere.
    if (family.type === 'histogram') continue
    const create = family.type === 'counter' ? 'createObservableCounter' : 'createObservableGauge'
    instruments.set(family, meter[create](nameOf(family), { description: family.help, unit: UNITS[family.unit] }))
  }
  const observed = [...instruments.values()]
  /** @type {import('@opentelemetry/api').BatchObservableCallback} */
  const observe = (result) => {
    const from = read()
    if (from === null) return
    for (const [family, instrument] of instruments) {
      for (const [value, values] of samplesOf(family, from)) {
        const own = Object.fromEntries(family.labels.map((label, i) => [label, values[i]]))
        result.observe(instrument, value, { ...attributes, ...own })
      }
    }
  }
  meter.addBatchObservableCallback(observe, observed)
  return function unregister() {
    meter.removeBatchObservableCallback(observe, observed)
  }
}

const schema = {
  /** @type {import('../core/options.js').Validator<Attributes>} */
  attributes: (name, value) => {
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value }
    throw invalid(`${name} must be an object, not ${formatValue(value)}`)
  },
}

/**
 * Names an instrument without unit and `_total`. Exporters to Prometheus append both, which gives the name in
 * `metrics()`.
 *
 * @type {(family: Family) => string}
 */
const nameOf = ({ name, unit }) =>
  `rkllm.memory.${name.slice(PREFIX.length).replace(new RegExp(`(_${unit || 'total'}|_total)$`), '')}`

/**
 * @param {any} target
 * @returns {Meter}
 */
function meterOf(target) {
  const meter = typeof target?.getMeter === 'function' ? target.getMeter('@rkllmjs/memory', version) : target
  if (typeof meter?.addBatchObservableCallback === 'function' && typeof meter.createObservableGauge === 'function')
    return meter
  throw invalid(`registerMetrics needs a Meter or a MeterProvider of OpenTelemetry, not ${formatValue(target)}`)
}

module.exports = { registerMetrics: publicFunction(registerMetrics) }
