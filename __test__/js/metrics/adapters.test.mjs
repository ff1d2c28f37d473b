/** The adapters, against their metrics libraries. */

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { describe, test } from 'node:test'

import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics'
import client from 'prom-client'

import { MemoryManager } from '../../../index.js'
import { backend, device, KiB, MiB, open, refuses, settle, turnsUntil } from '../../support/helpers.mjs'
import { parse } from '../../support/openmetrics.mjs'

const require = createRequire(import.meta.url)
const prometheus = require('@rkllmjs/memory/prom-client')
const openTelemetry = require('@rkllmjs/memory/opentelemetry')
const { collectGarbage } = require('../../../src/js/core/gc.js')

/** Parses samples by name and labels; leaves out figures that change from one scrape to the next. */
function steady(text) {
  const changing = /process_|available|_rss|swap|pressure|cgroup|load/
  const samples = [...parse(text).values()]
    .flatMap((family) => family.samples)
    .filter(({ name }) => !changing.test(name))
  return Object.fromEntries(
    samples.map(({ name, labels, value }) => [`${name} ${JSON.stringify(Object.entries(labels).sort())}`, value]),
  )
}

/** Keeps buffers from the collector between two reads of the figures. */
const held = []

function busy(t, options) {
  const manager = open(t, options)
  held.push(manager.allocateNPUMemory(MiB, { tag: 'weights "1"' }))
  manager.createMemoryPool({ name: 'kv', initialSize: MiB }).allocate(5 * KiB)
  return manager
}

/** Registers a manager and drops it. */
function abandoned(register) {
  const manager = new MemoryManager({ backend, device })
  register(manager)
  return new WeakRef(manager)
}

async function isCollected(reference) {
  return turnsUntil(() => {
    collectGarbage()
    return reference.deref() === undefined
  })
}

describe('prom-client', () => {
  const openMetrics = () => new client.Registry(client.Registry.OPENMETRICS_CONTENT_TYPE)

  test('a scrape has what metrics() has', async (t) => {
    const manager = busy(t)
    const registry = openMetrics()
    prometheus.registerMetrics(client, manager, { registry })
    assert.deepEqual(steady(await registry.metrics()), steady(manager.metrics()))
    // A second scrape replaces the counters instead of adding to them; a destroyed pool has no samples.
    manager.destroyMemoryPool('kv', { force: true })
    held.push(manager.allocateNPUMemory(MiB))
    settle(manager)
    assert.deepEqual(steady(await registry.metrics()), steady(manager.metrics()))
    assert.ok(!(await registry.metrics()).includes('pool="kv"'))
  })

  test('histograms, while the manager is profiling', async (t) => {
    const manager = busy(t)
    manager.enableMemoryProfiling()
    for (const size of [64, 4000, 4000]) manager.deallocate(manager.allocateSystemMemory(size))
    const registry = openMetrics()
    prometheus.registerMetrics(registry, manager)
    const text = await registry.metrics()
    const bucket = (le) =>
      new RegExp(`^rkllm_memory_allocation_size_bytes_bucket\\{le="${le}"\\} (\\d+)$`, 'm').exec(text)?.[1]
    assert.deepEqual(['64', '1024', '4096', '\\+Inf'].map(bucket), ['1', '1', '3', '3'])
    const sum = Number(/^rkllm_memory_allocation_size_bytes_sum (\S+)$/m.exec(text)?.[1])
    assert.ok(Math.abs(sum - 8064) < 81, `${sum} is not 8064 to one per cent`)
    manager.disableMemoryProfiling()
    assert.doesNotMatch(await registry.metrics(), /allocation_size_bytes_/)
  })

  test('the default registry of the module, and one reading a scrape', async (t) => {
    const manager = busy(t)
    let readings = 0
    const { getMemoryUsage } = manager
    manager.getMemoryUsage = () => (readings++, getMemoryUsage.call(manager))
    const unregister = prometheus.registerMetrics(client, manager)
    t.after(unregister)
    assert.match(await client.register.metrics(), /^rkllm_memory_used_bytes\{kind="npu"\} \d+$/m)
    assert.equal(readings, 1)
    await client.register.getMetricsAsJSON()
    assert.equal(readings, 2)
  })

  test('an unknown figure is absent, not 0', async (t) => {
    const manager = busy(t)
    const registry = new client.Registry()
    prometheus.registerMetrics(registry, manager)
    const { getMemoryUsage } = manager
    assert.match(await registry.metrics(), /^rkllm_memory_process_maps /m)
    manager.getMemoryUsage = () => {
      const usage = getMemoryUsage.call(manager)
      return { ...usage, process: { ...usage.process, maps: NaN } }
    }
    assert.doesNotMatch(await registry.metrics(), /^rkllm_memory_process_maps /m)
  })

  test('two managers need two prefixes', async (t) => {
    const [one, two] = [busy(t), open(t)]
    const registry = new client.Registry()
    const unregister = prometheus.registerMetrics(registry, one)
    const { hint } = refuses(() => prometheus.registerMetrics(registry, two), 'ERR_UNSUPPORTED')
    assert.match(hint, /prefix/)
    prometheus.registerMetrics(registry, two, { prefix: 'second_' })
    assert.match(await registry.metrics(), /^second_used_bytes\{kind="npu"\} 0$/m)
    unregister()
    unregister()
    assert.doesNotMatch(await registry.metrics(), /^rkllm_/m)
    assert.match(await registry.metrics(), /^second_used_bytes/m)
    prometheus.registerMetrics(registry, one)
  })

  test('two managers share a registry by their labels', async (t) => {
    const [one, two] = [busy(t), open(t)]
    one.enableMemoryProfiling()
    one.deallocate(one.allocateSystemMemory(100))
    const registry = new client.Registry()
    const unregister = prometheus.registerMetrics(registry, one, { labels: { model: 'chat', rank: '0' } })
    const other = prometheus.registerMetrics(registry, two, { labels: { rank: '0', model: 'eyes' } })
    const text = await registry.metrics()
    assert.match(text, /^rkllm_memory_used_bytes\{kind="npu",model="chat",rank="0"\} [1-9]/m)
    assert.match(text, /^rkllm_memory_used_bytes\{kind="npu",model="eyes",rank="0"\} 0$/m)
    assert.match(text, /^rkllm_memory_allocation_size_bytes_count\{model="chat",rank="0"\} 1$/m)
    assert.equal(text.match(/^# TYPE rkllm_memory_used_bytes /gm).length, 1)
    const three = open(t)
    for (const labels of [undefined, {}, { model: 'chat', rank: '0' }, { model: 'x' }])
      refuses(() => prometheus.registerMetrics(registry, three, { labels }), 'ERR_UNSUPPORTED')
    for (const labels of [{ kind: 'x' }, { __x: 'y' }, { 'a-b': 'c' }, { le: '1' }])
      refuses(() => prometheus.registerMetrics(new client.Registry(), three, { labels }), 'ERR_OUT_OF_RANGE')
    for (const labels of [null, 'x', ['x'], { model: 1 }])
      refuses(() => prometheus.registerMetrics(new client.Registry(), three, { labels }), 'ERR_INVALID_ARG_TYPE')
    unregister()
    assert.doesNotMatch(await registry.metrics(), /model="chat"/)
    assert.match(await registry.metrics(), /model="eyes"/)
    other()
    assert.doesNotMatch(await registry.metrics(), /^rkllm_/m)
    prometheus.registerMetrics(registry, three)
  })

  test('a disposed, broken or collected manager breaks no scrape', async (t) => {
    const registry = new client.Registry()
    new client.Gauge({ name: 'others', help: 'Not ours.', registers: [registry] }).set(7)
    const [disposed, broken] = [busy(t), busy(t)]
    prometheus.registerMetrics(registry, disposed, { prefix: 'disposed_' })
    prometheus.registerMetrics(registry, broken, { prefix: 'broken_' })
    const reference = abandoned((manager) => prometheus.registerMetrics(registry, manager, { prefix: 'dropped_' }))
    disposed.dispose()
    broken.getMemoryUsage = () => {
      throw new Error('the device is lost')
    }
    assert.ok(await isCollected(reference), 'the registry keeps the manager')
    const samples = (await registry.metrics()).split('\n').filter((line) => line !== '' && !line.startsWith('#'))
    assert.deepEqual(samples, ['others 7'])
  })

  test('invalid registries, managers and options are refused', (t) => {
    const manager = open(t)
    const registry = new client.Registry()
    for (const target of [undefined, null, {}, 'prom-client']) {
      refuses(() => prometheus.registerMetrics(target, manager), 'ERR_INVALID_ARG_TYPE')
    }
    refuses(() => prometheus.registerMetrics(registry, {}), 'ERR_INVALID_ARG_TYPE')
    for (const options of [{ prefix: 1 }, { prefix: '1a' }, { prefix: 'a-b' }, { registry: {} }, { perfix: 'a_' }]) {
      refuses(() => prometheus.registerMetrics(client, manager, options), 'ERR_INVALID_ARG_TYPE')
    }
  })
})

describe('OpenTelemetry', () => {
  function pipeline(t, temporality = AggregationTemporality.CUMULATIVE) {
    const exporter = new InMemoryMetricExporter(temporality)
    const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 1e6 })
    const provider = new MeterProvider({ readers: [reader] })
    t.after(() => provider.shutdown())
    /** Returns the exported metrics by name: `{ unit, points: [[attributes, value]] }`. */
    const collect = async () => {
      exporter.reset()
      await provider.forceFlush()
      const scopes = exporter.getMetrics().flatMap(({ scopeMetrics }) => scopeMetrics)
      const metrics = scopes.flatMap((scope) => scope.metrics)
      return new Map(
        metrics.map(({ descriptor: { name, unit }, dataPoints }) => [
          name,
          { unit, points: dataPoints.map(({ attributes, value }) => [attributes, value]) },
        ]),
      )
    }
    return { provider, collect }
  }

  test('a collection has the figures of getMemoryUsage', async (t) => {
    const manager = busy(t)
    const { provider, collect } = pipeline(t)
    openTelemetry.registerMetrics(provider, manager)
    const metrics = await collect()
    const usage = manager.getMemoryUsage()
    assert.deepEqual(metrics.get('rkllm.memory.used'), {
      unit: 'By',
      points: [
        [{ kind: 'npu' }, usage.npu.used],
        [{ kind: 'system' }, usage.system.used],
      ],
    })
    assert.deepEqual(metrics.get('rkllm.memory.allocations').points[0], [{ kind: 'npu' }, usage.npu.totalAllocations])
    assert.deepEqual(metrics.get('rkllm.memory.pool_reserved').points, [[{ pool: 'kv', kind: 'npu' }, MiB]])
    assert.deepEqual(metrics.get('rkllm.memory.pool_fragmentation').unit, '1')
    assert.deepEqual(metrics.get('rkllm.memory.tag_used').points, [
      [{ tag: 'weights "1"' }, usage.tags['weights "1"'].used],
    ])
    assert.equal(metrics.has('rkllm.memory.limit'), false, 'what is not known is not observed')
  })

  test('every name is that of the text format, but for unit and _total', async (t) => {
    const manager = busy(t, { limits: { npu: { max: 64 * MiB } } })
    const { provider, collect } = pipeline(t)
    openTelemetry.registerMetrics(provider.getMeter('mine'), manager)
    const units = { By: '_bytes', 1: '_ratio' }
    const names = [...(await collect())].map(([name, { unit }]) => name.replaceAll('.', '_') + (units[unit] ?? ''))
    assert.deepEqual(names.sort(), [...parse(manager.metrics()).keys()].sort())
  })

  test('attributes tell managers apart, and unregistering ends one', async (t) => {
    const [one, two] = [busy(t), open(t)]
    // A cumulative exporter of the SDK repeats what was observed last, for ever.
    const { provider, collect } = pipeline(t, AggregationTemporality.DELTA)
    openTelemetry.registerMetrics(provider, one, { attributes: { model: 'a' } })
    const unregister = openTelemetry.registerMetrics(provider, two, { attributes: { model: 'b' } })
    const used = async () => (await collect()).get('rkllm.memory.used').points.filter(([{ kind }]) => kind === 'npu')
    assert.deepEqual(await used(), [
      [{ kind: 'npu', model: 'a' }, one.getMemoryStats().npuUsed],
      [{ kind: 'npu', model: 'b' }, 0],
    ])
    unregister()
    unregister()
    assert.deepEqual(await used(), [[{ kind: 'npu', model: 'a' }, one.getMemoryStats().npuUsed]])
  })

  test('a manager that is disposed, broken or collected is not observed', async (t) => {
    const [disposed, broken] = [busy(t), busy(t)]
    const { provider, collect } = pipeline(t)
    openTelemetry.registerMetrics(provider, disposed)
    openTelemetry.registerMetrics(provider, broken)
    const reference = abandoned((manager) => openTelemetry.registerMetrics(provider, manager))
    disposed.dispose()
    broken.getMemoryUsage = () => {
      throw new Error('the device is lost')
    }
    assert.ok(await isCollected(reference), 'the meter keeps the manager')
    assert.equal((await collect()).size, 0)
  })

  test('invalid meters, managers and options are refused', (t) => {
    const manager = open(t)
    const { provider } = pipeline(t)
    for (const target of [undefined, {}, 1])
      refuses(() => openTelemetry.registerMetrics(target, manager), 'ERR_INVALID_ARG_TYPE')
    refuses(() => openTelemetry.registerMetrics(provider, null), 'ERR_INVALID_ARG_TYPE')
    refuses(() => openTelemetry.registerMetrics(provider, manager, { attributes: 'a' }), 'ERR_INVALID_ARG_TYPE')
    refuses(() => openTelemetry.registerMetrics(provider, manager, { attribute: {} }), 'ERR_INVALID_ARG_TYPE')
  })
})
