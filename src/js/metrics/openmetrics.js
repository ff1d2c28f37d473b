'use strict'

// Writes the metrics as text: OpenMetrics 1.0, or the older text format of Prometheus.
//
// OpenMetrics names a counter's family without `_total`, Prometheus with it. One text cannot serve both: a parser of
// the other format would see counters without type and help.

const { kinds } = require('../core/options.js')
const { families, samplesOf } = require('./families.js')

/** The options of `manager.metrics`. */
const metricsOptions = { format: kinds.oneOf('openmetrics', 'prometheus') }

/** @typedef {import('./family.js').Distribution} Distribution */

/**
 * @param {import('../types/stats.js').MemoryUsage} usage
 * @param {import('../types/devices.js').DeviceInfo} device
 * @param {import('../types/profiling.js').MemoryProfile | null} profile while profiling
 * @param {'openmetrics' | 'prometheus'} [format]
 */
function exposition(usage, device, profile, format = 'openmetrics') {
  const lines = []
  for (const family of families) {
    const samples = samplesOf(family, { usage, device, profile })
    if (samples.length === 0) continue
    const { name, type, unit, help, labels } = family
    const named = type === 'counter' && format === 'openmetrics' ? name.replace(/_total$/, '') : name
    lines.push(`# TYPE ${named} ${type}`)
    if (unit !== '') lines.push(`# UNIT ${named} ${unit}`)
    lines.push(`# HELP ${named} ${escaped(help)}`)
    for (const [value, values] of samples) {
      const pairs = labels.map((label, i) => `${label}="${escaped(values[i])}"`)
      if (type === 'histogram') lines.push(...histogram(name, pairs, value))
      else lines.push(`${name}${braced(pairs)} ${number(value)}`)
    }
  }
  return `${lines.join('\n')}\n# EOF\n`
}

/**
 * @param {string} name
 * @param {string[]} pairs
 * @param {Distribution} distribution
 */
function histogram(name, pairs, { count, sum, buckets }) {
  return [
    ...buckets.map(
      ([bound, upTo]) => `${name}_bucket${braced([...pairs, `le="${bucketBound(bound)}"`])} ${number(upTo)}`,
    ),
    `${name}_sum${braced(pairs)} ${number(sum)}`,
    `${name}_count${braced(pairs)} ${number(count)}`,
  ]
}

/** @type {(pairs: string[]) => string} */
const braced = (pairs) => (pairs.length === 0 ? '' : `{${pairs.join(',')}}`)

/**
 * Escapes a text. Half a surrogate pair, which UTF-8 cannot encode, is replaced.
 *
 * @type {(text: string) => string}
 */
const escaped = (text) => text.toWellFormed().replace(/[\\"\n]/g, (letter) => (letter === '\n' ? '\\n' : `\\${letter}`))

/** @type {(value: number) => string} */
const number = (value) => (value === Infinity ? '+Inf' : String(value))

/**
 * Formats a bound as Go does: bounds are labels, which scrapers compare as text.
 *
 * @param {number} bound
 */
function bucketBound(bound) {
  if (bound === Infinity) return '+Inf'
  const text = bound >= 1e-4 && bound < 1e21 ? String(bound) : bound.toExponential().replace(/e([+-])(\d)$/, 'e$10$2')
  return /[.e]/.test(text) ? text : `${text}.0`
}

module.exports = { exposition, metricsOptions }
