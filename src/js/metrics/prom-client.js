'use strict'

// `@rkllmjs/memory/prom-client`: registers a manager's figures in a registry of prom-client.

const { memoryError } = require('../core/errors.js')
const { publicFunction } = require('../core/border.js')
const { check, invalid, formatValue } = require('../core/options.js')
const { PREFIX, families, samplesOf } = require('./families.js')
const { readerOf } = require('./reader.js')

/**
 * @typedef {typeof import('prom-client')} Client
 * @typedef {Pick<import('prom-client').Registry, 'registerMetric' | 'getSingleMetric' | 'removeSingleMetric'>} Registry
 * @typedef {import('./families.js').Family} Family
 * @typedef {import('./families.js').Figures} Figures
 */

/** @type {typeof import('./prom-client.js').registerMetrics} */
function registerMetrics(target, manager, options) {
  const read = readerOf(manager)
  const { prefix = PREFIX, registry: chosen } = check('registerMetrics', options, schema)
  const { client, registry } = libraryOf(target, chosen)
  const named = families.map((family) => ({ ...family, name: prefix + family.name.slice(PREFIX.length) }))
  const taken = named.find(({ name }) => registry.getSingleMetric(name) !== undefined)
  if (taken !== undefined) {
    throw memoryError('ERR_UNSUPPORTED', `this registry already has a metric ${JSON.stringify(taken.name)}`, {
      hint: 'give each manager a prefix of its own, or call what registerMetrics returned before',
    })
  }
  const metrics = named.map((family) => [family.name, metricOf(client, registry, family, read)])
  return function unregister() {
    // Another metric may have been registered under the name since.
    for (const [name, metric] of metrics)
      if (registry.getSingleMetric(name) === metric) registry.removeSingleMetric(name)
  }
}

const schema = {
  /** @type {import('../core/options.js').Validator<string>} */
  prefix: (name, value) => {
    if (typeof value === 'string' && /^[a-zA-Z_:][\w:]*$/.test(value)) return value
    throw invalid(`${name} is ${formatValue(value)}; it must be letters, digits and _, and begin with no digit`)
  },
  /** @type {import('../core/options.js').Validator<Registry>} */
  registry: (name, value) => {
    if (isRegistry(value)) return value
    throw invalid(`${name} must be a Registry of prom-client, not ${formatValue(value)}`)
  },
}

/** @type {(value: any) => value is Registry} */
const isRegistry = (value) => typeof value?.registerMetric === 'function' && typeof value.getSingleMetric === 'function'

/**
 * Returns module and registry; `target` is the module, which stands for its default registry, or a registry.
 *
 * @param {any} target
 * @param {Registry | undefined} chosen
 * @returns {{ client: Client, registry: Registry }}
 */
function libraryOf(target, chosen) {
  const client = [target, target?.default].find(
    (module) => typeof module?.Gauge === 'function' && typeof module.Counter === 'function',
  )
  if (client !== undefined) return { client, registry: chosen ?? client.register }
  if (!isRegistry(target))
    throw invalid(`registerMetrics needs prom-client, or a Registry of it, not ${formatValue(target)}`)
  try {
    return { client: require('prom-client'), registry: chosen ?? target }
  } catch (cause) {
    const hint = 'pass the module itself: registerMetrics(require("prom-client"), manager, { registry })'
    throw memoryError('ERR_UNSUPPORTED', 'prom-client is not found from here', { hint }, { cause })
  }
}

/**
 * @param {Client} client
 * @param {Registry} registry
 * @param {Family} family
 * @param {() => Figures | null} read
 * @returns {import('prom-client').Metric}
 */
function metricOf(client, registry, family, read) {
  const { name, type, help, labels, bounds } = family
  const samples = () => {
    const from = read()
    return from === null ? [] : samplesOf(family, from)
  }
  const config = { name, help, labelNames: labels, registers: [registry] }
  if (type === 'histogram') return histogramOf(new client.Histogram({ ...config, buckets: bounds }), samples)
  const [Metric, put] = type === 'counter' ? [client.Counter, 'inc'] : [client.Gauge, 'set']
  return new Metric({
    ...config,
    collect() {
      this.reset()
      // A reset metric without labels is 0. An unknown figure must be absent.
      if (labels.length === 0) this.remove()
      for (const [value, values] of samples())
        this[put](Object.fromEntries(labels.map((label, i) => [label, values[i]])), value)
    },
  })
}

/**
 * Makes a histogram return samples that were recorded elsewhere; prom-client's own only count observations.
 *
 * @param {any} metric a Histogram, of which some members are not in prom-client's types
 * @param {() => ReturnType<typeof samplesOf>} samples
 */
function histogramOf(metric, samples) {
  const { name, help } = metric
  metric.get = metric.getForPromString = async () => {
    const values = samples().flatMap(([{ count, sum, buckets }]) => [
      ...buckets.map(([le, value]) => ({
        labels: { le: le === Infinity ? '+Inf' : le },
        value,
        metricName: `${name}_bucket`,
      })),
      { labels: {}, value: sum, metricName: `${name}_sum` },
      { labels: {}, value: count, metricName: `${name}_count` },
    ])
    return { name, help, type: 'histogram', values, aggregator: metric.aggregator }
  }
  return metric
}

module.exports = { registerMetrics: publicFunction(registerMetrics) }
