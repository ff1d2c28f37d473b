'use strict'

// `@rkllmjs/memory/prom-client`: registers a manager's figures in a registry of prom-client.

const { memoryError } = require('../core/errors.js')
const { publicFunction } = require('../core/border.js')
const { check, invalid, outOfRange, formatValue } = require('../core/options.js')
const { PREFIX, families, samplesOf } = require('./families.js')
const { readerOf } = require('./reader.js')

/**
 * @typedef {typeof import('prom-client')} Client
 * @typedef {Pick<import('prom-client').Registry, 'registerMetric' | 'getSingleMetric' | 'removeSingleMetric'>} Registry
 * @typedef {import('./family.js').Family} Family
 * @typedef {import('./family.js').Figures} Figures
 */

/**
 * A manager in a registry: its figures, and the values of the group's labels.
 *
 * @typedef {{ read: () => Figures | null, values: string[] }} Source
 */

/**
 * Managers that share metrics.
 *
 * @typedef {{ names: string[], sources: Set<Source>, metrics: Array<[string, import('prom-client').Metric]> }} Group
 */

/**
 * The groups of each registry, by prefix.
 *
 * @type {WeakMap<Registry, Map<string, Group>>}
 */
const groups = new WeakMap()

/** @type {typeof import('./prom-client.js').registerMetrics} */
function registerMetrics(target, manager, options) {
  const read = readerOf(manager)
  const { prefix = PREFIX, registry: chosen, labels = [] } = check('registerMetrics', options, schema)
  const { client, registry } = libraryOf(target, chosen)
  const source = { read, values: labels.map(([, value]) => value) }
  const names = labels.map(([name]) => name)
  const known = groupOf(registry, prefix)
  const group = known === undefined ? makeGroup(client, registry, prefix, names) : joined(known, names, source)
  group.sources.add(source)
  return function unregister() {
    group.sources.delete(source)
    if (group.sources.size > 0) return
    // Another metric may have been registered under the name since.
    for (const [name, metric] of group.metrics)
      if (registry.getSingleMetric(name) === metric) registry.removeSingleMetric(name)
  }
}

/**
 * The group of a prefix; undefined where its metrics were removed.
 *
 * @param {Registry} registry
 * @param {string} prefix
 */
function groupOf(registry, prefix) {
  const group = groups.get(registry)?.get(prefix)
  return group?.metrics.every(([name, metric]) => registry.getSingleMetric(name) === metric) ? group : undefined
}

/**
 * @param {Client} client
 * @param {Registry} registry
 * @param {string} prefix
 * @param {string[]} names of the labels
 * @returns {Group}
 */
function makeGroup(client, registry, prefix, names) {
  const named = families.map((family) => ({ ...family, name: prefix + family.name.slice(PREFIX.length) }))
  const taken = named.find(({ name }) => registry.getSingleMetric(name) !== undefined)
  if (taken !== undefined) throw takenError(`this registry already has a metric ${JSON.stringify(taken.name)}`)
  const clash = names.find((name) => named.some(({ labels }) => labels.includes(name)))
  if (clash !== undefined) throw outOfRange(`registerMetrics: a metric has a label ${JSON.stringify(clash)} of its own`)
  /** @type {Group} */
  const group = { names, sources: new Set(), metrics: [] }
  group.metrics = named.map((family) => [family.name, metricOf(client, registry, family, group)])
  if (!groups.has(registry)) groups.set(registry, new Map())
  groups.get(registry)?.set(prefix, group)
  return group
}

/**
 * Checks that the labels tell a manager from the others of its group.
 *
 * @param {Group} group
 * @param {string[]} names
 * @param {Source} source
 */
function joined(group, names, { values }) {
  if (names.length === 0 || group.names.length === 0)
    throw takenError('this registry already has the metrics of a manager without labels')
  if (String(names) !== String(group.names))
    throw takenError(`the labels are ${names.join(', ')}, and those of the other manager ${group.names.join(', ')}`)
  for (const other of group.sources) {
    if (other.values.every((value, at) => value === values[at]))
      throw takenError('this registry already has a manager with the same labels')
  }
  return group
}

/** @param {string} message */
const takenError = (message) =>
  memoryError('ERR_UNSUPPORTED', message, {
    hint:
      'give each manager labels of its own, as { labels: { model: "chat" } }, or a prefix; ' +
      'or call what registerMetrics returned before',
  })

/** @type {import('../core/options.js').Validator<Array<[string, string]>>} sorted by name */
function checkLabels(name, value) {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalid(`${name} must be an object of strings, not ${formatValue(value)}`)
  return Object.entries(value)
    .map(([label, of]) => {
      if (!/^(?!__)[a-zA-Z_]\w*$/.test(label) || label === 'le')
        throw outOfRange(`${name} has ${JSON.stringify(label)}; it must be letters, digits and _, no digit first`)
      if (typeof of !== 'string') throw invalid(`${name}.${label} must be a string, not ${formatValue(of)}`)
      return /** @type {[string, string]} */ ([label, of])
    })
    .sort(([a], [b]) => (a < b ? -1 : 1))
}

const schema = {
  labels: checkLabels,
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
 * @param {Group} group
 * @returns {import('prom-client').Metric}
 */
function metricOf(client, registry, family, group) {
  const { name, type, help, labels, bounds } = family
  const labelNames = [...labels, ...group.names]
  /** The samples of all managers, each with all of its labels. */
  const samples = () =>
    [...group.sources].flatMap(({ read, values }) => {
      const from = read()
      if (from === null) return []
      return samplesOf(family, from).map(([value, own]) => ({
        value,
        labels: Object.fromEntries(labelNames.map((label, at) => [label, [...own, ...values][at]])),
      }))
    })
  const config = { name, help, labelNames, registers: [registry] }
  if (type === 'histogram') return histogramOf(new client.Histogram({ ...config, buckets: bounds }), samples)
  const [Metric, put] = type === 'counter' ? [client.Counter, 'inc'] : [client.Gauge, 'set']
  return new Metric({
    ...config,
    collect() {
      this.reset()
      // A reset metric without labels is 0. An unknown figure must be absent.
      if (labelNames.length === 0) this.remove()
      for (const { value, labels: of } of samples()) this[put](of, value)
    },
  })
}

/**
 * Makes a histogram return samples that were recorded elsewhere; prom-client's own only count observations.
 *
 * @param {any} metric a Histogram, of which some members are not in prom-client's types
 * @param {() => Array<{ value: any, labels: Record<string, string> }>} samples
 */
function histogramOf(metric, samples) {
  const { name, help } = metric
  metric.get = metric.getForPromString = async () => {
    const values = samples().flatMap(({ value: { count, sum, buckets }, labels }) => [
      ...buckets.map((/** @type {[number, number]} */ [le, value]) => ({
        labels: { ...labels, le: le === Infinity ? '+Inf' : le },
        value,
        metricName: `${name}_bucket`,
      })),
      { labels, value: sum, metricName: `${name}_sum` },
      { labels, value: count, metricName: `${name}_count` },
    ])
    return { name, help, type: 'histogram', values, aggregator: metric.aggregator }
  }
  return metric
}

module.exports = { registerMetrics: publicFunction(registerMetrics) }
