/** Metrics as text: checked by a strict parser and by promtool if installed, and compared with getMemoryUsage. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { describe, test } from 'node:test'

import { KiB, MiB, needsCommand, needsSimulated, open, refuses } from '../../support/helpers.mjs'
import { parse } from '../../support/openmetrics.mjs'

const require = createRequire(import.meta.url)
const { families: table } = require('../../../src/js/metrics/families.js')
const { exposition } = require('../../../src/js/metrics/openmetrics.js')

/** A label value with every character that needs escaping. */
const AWKWARD = 'a "quoted" \\ back\\nslash,\nnew line = {x} é ☃'

/** Keeps buffers from the collector between two reads of the figures. */
const held = []

/** Creates a manager with memory of every kind. */
function busy(t) {
  const manager = open(t, { slabs: {}, limits: { npu: { max: 512 * MiB } } })
  held.push(manager.allocateNPUMemory(MiB, { tag: 'weights' }))
  held.push(manager.allocateNPUMemory(4 * KiB, { tag: AWKWARD }))
  held.push(manager.allocateSystemMemory(3 * MiB))
  manager.deallocate(manager.allocateSystemMemory(MiB))
  refuses(() => manager.allocateNPUMemory(1024 * MiB), 'ERR_MEMORY_LIMIT')
  const pool = manager.createMemoryPool({ name: AWKWARD, initialSize: 4 * MiB })
  pool.allocate(1000)
  pool.allocate(5000).free()
  manager.createMemoryPool({ name: 'fixed', kind: 'system', initialSize: MiB, blockSize: 4 * KiB })
  manager.reserve(2 * MiB, { tag: 'model' })
  manager.reserve(MiB, { tag: 'model' })
  manager.reserve(MiB)
  return manager
}

/** A profile, `{ enabled, sizes, ... }`, with buckets by powers of two. */
const PROFILE = {
  enabled: true,
  droppedEvents: 3,
  sizes: { count: 6, mean: 1000, buckets: [[64, 1], [4096, 2], [65536, 2], [2 ** 40, 1]] },
  lifetimesMs: { count: 3, mean: 2, buckets: [[1, 2], [5.5, 1]] },
  latencyNs: { count: 0, mean: 0, buckets: [] },
}

/** Returns the value of the sample with these labels, or undefined. */
function find(families, name, labels = {}) {
  const found = [...families.values()].flatMap(({ samples }) => samples).filter((sample) => sample.name === name)
  return found.find((sample) => Object.entries(labels).every(([label, value]) => sample.labels[label] === value))?.value
}

describe('metrics()', () => {
  test('is OpenMetrics, with the figures of getMemoryUsage', (t) => {
    const manager = busy(t)
    const families = parse(manager.metrics())
    const usage = manager.getMemoryUsage()
    const value = (name, labels) => find(families, `rkllm_memory_${name}`, labels)
    for (const kind of ['npu', 'system']) {
      assert.equal(value('used_bytes', { kind }), usage[kind].used)
      assert.equal(value('peak_bytes', { kind }), usage[kind].peak)
      assert.equal(value('live_allocations', { kind }), usage[kind].liveAllocations)
      assert.equal(value('allocations_total', { kind }), usage[kind].totalAllocations)
      assert.equal(value('frees_total', { kind }), usage[kind].totalFrees)
      assert.equal(value('failures_total', { kind }), usage[kind].failedAllocations)
    }
    assert.equal(value('failures_total', { kind: 'npu' }), 1)
    assert.equal(value('limit_bytes', { kind: 'npu' }), 512 * MiB)
    for (const pool of usage.pools) {
      const labels = { pool: pool.name, kind: pool.kind }
      assert.equal(value('pool_reserved_bytes', labels), pool.reserved)
      assert.equal(value('pool_allocated_bytes', labels), pool.allocated)
      assert.equal(value('pool_largest_free_bytes', labels), pool.largestFree)
      assert.equal(value('pool_fragmentation_ratio', labels), pool.fragmentation)
    }
    const awkward = { pool: AWKWARD }
    assert.equal(value('pool_requested_bytes', awkward), 1000)
    assert.deepEqual([value('pool_allocations_total', awkward), value('pool_frees_total', awkward)], [2, 1])
    for (const [tag, counters] of Object.entries(usage.tags))
      assert.equal(value('tag_used_bytes', { tag }), counters.used)
    assert.equal(value('tag_live_allocations', { tag: AWKWARD }), 1)
    assert.equal(value('reserved_bytes', { tag: 'model', kind: 'npu' }), 3 * MiB)
    assert.equal(value('reserved_bytes', { tag: '', kind: 'npu' }), MiB)
    for (const { id, used, total } of usage.npu.domains) {
      assert.equal(value('domain_used_bytes', { domain: String(id) }), used)
      assert.equal(value('domain_capacity_bytes', { domain: String(id) }), total)
    }
    assert.equal(value('npu_objects'), usage.npu.objects)
    assert.equal(
      value('device_info', { backend: manager.device.backend, simulated: String(manager.device.simulated) }),
      1,
    )
    for (const [name, { help, type }] of families) assert.ok(help && type, name)
  })

  test('an unknown figure has no sample and no family', { skip: needsSimulated }, (t) => {
    const manager = open(t)
    const names = new Set(parse(manager.metrics()).keys())
    assert.ok(names.has('rkllm_memory_used_bytes'))
    for (const name of [
      'limit_bytes', 'cma_capacity_bytes', 'npu_load_ratio', 'pool_reserved_bytes', 'allocation_size_bytes',
    ]) {
      assert.ok(!names.has(`rkllm_memory_${name}`), name)
    }
    const usage = manager.getMemoryUsage()
    Object.assign(usage.process, { openFds: NaN, maps: NaN })
    Object.assign(usage.system, { pressure: null, cgroup: null })
    const families = parse(exposition(usage, manager.device, null))
    for (const name of ['process_open_fds', 'process_maps', 'pressure_ratio', 'cgroup_limit_bytes']) {
      assert.ok(!families.has(`rkllm_memory_${name}`), name)
    }
    const machine = { ...usage.npu, load: [50, 0], cmaTotal: 64 * MiB, cmaFree: 0 }
    const other = parse(exposition({ ...usage, npu: machine }, manager.device, null))
    assert.deepEqual(
      [find(other, 'rkllm_memory_npu_load_ratio', { core: '0' }), find(other, 'rkllm_memory_cma_free_bytes')],
      [0.5, 0],
    )
  })

  test('a profile adds histograms with constant bounds', (t) => {
    const manager = open(t)
    const families = parse(exposition(manager.getMemoryUsage(), manager.device, PROFILE))
    const bucket = (name, le) => find(families, `rkllm_memory_${name}_bucket`, { le })
    assert.deepEqual(
      ['64.0', '1024.0', '4096.0', '65536.0', '+Inf'].map((le) => bucket('allocation_size_bytes', le)),
      [1, 1, 3, 5, 6],
    )
    assert.equal(find(families, 'rkllm_memory_allocation_size_bytes_sum'), 6000)
    assert.deepEqual(
      ['1e-06', '0.001', '0.01', '0.1', '+Inf'].map((le) => bucket('allocation_lifetime_seconds', le) ?? le),
      [0, 2, 3, 3, 3],
    )
    assert.equal(bucket('allocation_latency_seconds', '+Inf'), 0)
    assert.equal(find(families, 'rkllm_memory_profile_dropped_events_total'), 3)
    assert.equal(families.get('rkllm_memory_allocation_latency_seconds').unit, 'seconds')
  })

  const skip = needsCommand('promtool')
  test('promtool accepts it', { skip }, (t) => {
    const manager = busy(t)
    const texts = [
      manager.metrics({ format: 'prometheus' }),
      exposition(manager.getMemoryUsage(), manager.device, PROFILE, 'prometheus'),
    ]
    for (const input of texts) {
      const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input, encoding: 'utf8' })
      assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: '', stderr: '' })
    }
  })

  test('promtool reads the OpenMetrics text as well, and misses nothing but the help of counters', { skip }, (t) => {
    const input = busy(t).metrics()
    const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input, encoding: 'utf8' })
    const counters = [...parse(input).values()]
      .filter(({ type }) => type === 'counter')
      .map(({ name }) => `${name}_total no help text`)
    assert.deepEqual(
      { status, stdout, lines: stderr.trim().split('\n') },
      { status: 3, stdout: '', lines: counters.sort() },
    )
  })

  test('the two formats differ in the names of families of counters, and in nothing else', (t) => {
    const manager = busy(t)
    const usage = manager.getMemoryUsage()
    const [ours, theirs] = ['openmetrics', 'prometheus'].map((format) =>
      exposition(usage, manager.device, PROFILE, format),
    )
    assert.notEqual(ours, theirs)
    const counters = [...parse(ours).values()].filter(({ type }) => type === 'counter').map(({ name }) => name)
    assert.ok(counters.length > 5)
    const renamed = counters.reduce(
      (text, name) => text.replaceAll(new RegExp(`^(# \\w+ ${name}) `, 'gm'), '$1_total '),
      ours,
    )
    assert.equal(renamed, theirs)
  })

  test('refuses unknown options, and calls after dispose', (t) => {
    const manager = open(t)
    refuses(() => manager.metrics({ format: 'json' }), 'ERR_OUT_OF_RANGE')
    refuses(() => manager.metrics({ fromat: 'prometheus' }), 'ERR_INVALID_ARG_TYPE')
    manager.dispose()
    refuses(() => manager.metrics(), 'ERR_MANAGER_DISPOSED')
  })
})

test('docs/metrics.md lists every metric there is, and no other', () => {
  const page = readFileSync(new URL('../../../docs/metrics.md', import.meta.url), 'utf8')
  const listed = [...page.matchAll(/^\| `(rkllm_memory_\w+)` \| (\w+) \| (.*?) \| (.*) \|$/gm)].map(
    ([, ...cells]) => cells,
  )
  const labels = (names) => names.map((name) => `\`${name}\``).join(', ')
  assert.deepEqual(listed, table.map(({ name, type, labels: names, help }) => [name, type, labels(names), help]))
})

test('the parser of these tests refuses what OpenMetrics does', () => {
  const bad = [
    'a 1\n',
    '# TYPE a gauge\n\na 1\n# EOF\n',
    '# TYPE a gauge\na 1\na 2\n# EOF\n',
    '# TYPE a counter\na 1\n# EOF\n',
    '# TYPE a_total counter\na_total 1\n# EOF\n',
    '# TYPE a gauge\n# UNIT a bytes\na 1\n# EOF\n',
    '# TYPE a gauge\na{b="\\x"} 1\n# EOF\n',
    '# TYPE a gauge\na{b="1",} 1\n# EOF\n',
    '# TYPE a gauge\na 0x1\n# EOF\n',
    '# TYPE a histogram\na_bucket{le="1.0"} 2\na_bucket{le="+Inf"} 1\na_count 1\na_sum 1\n# EOF\n',
    '# TYPE a histogram\na_bucket{le="1"} 1\na_bucket{le="+Inf"} 1\na_count 1\na_sum 1\n# EOF\n',
    '# TYPE a gauge\na 1\n# HELP a b\n# EOF\n',
    '# TYPE a counter\n# TYPE a_total gauge\na_total 1\n# EOF\n',
  ]
  for (const text of bad) assert.throws(() => parse(text), assert.AssertionError, JSON.stringify(text))
  assert.equal(parse('# TYPE a counter\na_total{b="x\\ny"} 1e3\n# EOF\n').get('a').samples[0].labels.b, 'x\ny')
})
