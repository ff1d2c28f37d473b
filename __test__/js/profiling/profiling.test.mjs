/** Profiling: exact counts, estimates against the truth, stacks, leaks, snapshots. */

import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import Ajv from 'ajv'

import { diffSnapshots, MemoryManager, replayEventLog } from '../../../index.js'
import {
  backend, device, KiB, MiB, notOn, open, refuses, runChild, runtime, turnsUntil,
} from '../../support/helpers.mjs'

const require = createRequire(import.meta.url)
const { stackHere } = require('../../../src/js/profiling/stack.js')

/** Returns a deterministic generator of pseudo-random numbers. */
function generator(seed) {
  let state = seed
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
}

const profiled = (t, profiling = true, options = {}) => open(t, { profiling, ...options })

describe('counts', () => {
  test('nothing, before the first time', (t) => {
    const manager = open(t)
    manager.deallocate(manager.allocateSystemMemory(1))
    manager.disableMemoryProfiling()
    const { enabled, startedAt, allocations, events, callSites, sizes, timeline } = manager.getMemoryProfile()
    assert.deepEqual(
      { enabled, startedAt, allocations, events, callSites, count: sizes.count, timeline },
      { enabled: false, startedAt: 0, allocations: 0, events: [], callSites: [], count: 0, timeline: [] },
    )
    assert.equal(manager.takeSnapshot().buffers.length, 0)
  })

  test('every allocation and free, with its kind, tag and pool, once', (t) => {
    const manager = profiled(t)
    const pool = manager.createMemoryPool({ name: 'kv', kind: 'system', initialSize: MiB, tag: 'cache' })
    const buffer = manager.allocateNPUMemory(5000, { tag: 'a' })
    const [block, shown, movable, tagged] = [
      pool.allocate(64),
      pool.allocate(128),
      pool.allocate(256, { movable: true, tag: 'm' }),
      pool.allocateBuffer(512, { tag: 'b' }),
    ]
    const ids = {
      shown: shown.id,
      block: block.id,
      movable: movable.id,
      buffer: manager.describe(buffer).id,
      tagged: manager.describe(tagged).id,
    }
    void shown.buffer // Exposing a block is no allocation.
    void movable.buffer
    for (const memory of [block, shown, movable]) memory.free()
    for (const memory of [buffer, tagged]) manager.deallocate(memory)
    const { allocations, frees, bytesAllocated, bytesFreed, events, droppedEvents, sizes } = manager.getMemoryProfile()
    const bytes = 5000 + 64 + 128 + 256 + 512
    assert.deepEqual(
      { allocations, frees, bytesAllocated, bytesFreed },
      { allocations: 5, frees: 5, bytesAllocated: bytes, bytesFreed: bytes },
    )
    assert.deepEqual([sizes.count, sizes.min, droppedEvents], [5, 64, 0])
    const seen = (type) =>
      events
        .filter((event) => event.type === type)
        .map(({ id, kind, size, tag, pool }) => ({ id, kind, size, tag, pool }))
        .sort((a, b) => a.size - b.size)
    const expected = [
      { id: ids.block, kind: 'system', size: 64, tag: 'cache', pool: 'kv' },
      { id: ids.shown, kind: 'system', size: 128, tag: 'cache', pool: 'kv' },
      { id: ids.movable, kind: 'system', size: 256, tag: 'm', pool: 'kv' },
      { id: ids.tagged, kind: 'system', size: 512, tag: 'b', pool: 'kv' },
      { id: ids.buffer, kind: 'npu', size: 5000, tag: 'a', pool: null },
    ]
    assert.deepEqual(seen('allocate'), expected)
    assert.deepEqual(seen('free'), expected)
  })

  test('refusals, growth, trimming, moves, and frees by the collector', async (t) => {
    const manager = profiled(t)
    const pool = manager.createMemoryPool({
      name: 'p',
      kind: 'system',
      initialSize: 64 * KiB,
      maxSize: 192 * KiB,
      chunkSize: 64 * KiB,
    })
    const blocks = Array.from({ length: 24 }, () => pool.allocate(8 * KiB, { movable: true }))
    refuses(() => pool.allocate(8 * KiB), 'ERR_POOL_EXHAUSTED')
    blocks.forEach((block, at) => at % 2 === 0 && block.free())
    const { moves } = pool.defragment()
    assert.ok(moves.length > 0)
    for (let i = 0; i < 50; i++) manager.allocateSystemMemory(4 * KiB, { tag: 'garbage' })
    const collected = () => manager.getMemoryProfile().events.filter(({ type }) => type === 'collect')
    assert.ok(
      await turnsUntil(() => (manager.optimizeMemory({ trim: false, defragment: false }), collected().length > 0), 50),
    )
    const { events } = manager.getMemoryProfile()
    const count = (type) => events.filter((event) => event.type === type).length
    assert.equal(count('grow'), 2, 'the two that came after the first, which was there before the pool was recorded')
    assert.ok(count('trim') > 0)
    assert.ok(count('fail') > 0)
    assert.deepEqual(
      events.filter(({ type }) => type === 'move').map(({ id, size }) => ({ id, size })),
      moves.map(({ id, size }) => ({ id, size })),
    )
    assert.ok(collected().every(({ tag }) => tag === 'garbage'))
  })

  test('reset, destroy and dispose free live memory', (t) => {
    const manager = profiled(t)
    for (const end of [(pool) => pool.reset(), (pool) => manager.destroyMemoryPool(pool, { force: true })]) {
      const pool = manager.createMemoryPool({ name: `pool ${end}`, kind: 'system', initialSize: MiB })
      const kept = [
        pool.allocate(100), pool.allocate(200).buffer, pool.allocate(300, { movable: true }), pool.allocateBuffer(400),
      ]
      end(pool)
      assert.equal(kept.length, 4)
    }
    const { allocations, frees, bytesAllocated, bytesFreed, events } = manager.getMemoryProfile()
    assert.deepEqual([allocations, frees, bytesAllocated, bytesFreed], [8, 8, 2000, 2000])
    const open = new Map()
    for (const { type, id, pool } of events) {
      const name = `${pool} ${id}`
      if (type === 'allocate') open.set(name, (open.get(name) ?? 0) + 1)
      if (type === 'free' || type === 'collect') open.set(name, (open.get(name) ?? 0) - 1)
    }
    assert.deepEqual([...open.values()], new Array(8).fill(0), 'each event names what the other one named')
  })

  test('the ring keeps the latest events and counts the lost ones', (t) => {
    const manager = profiled(t, { eventCapacity: 10 })
    for (let i = 1; i <= 20; i++) manager.deallocate(manager.allocateSystemMemory(i))
    const { events, droppedEvents } = manager.getMemoryProfile()
    assert.deepEqual(events.map(({ size }) => size), [16, 16, 17, 17, 18, 18, 19, 19, 20, 20])
    assert.equal(droppedEvents, 30)
    assert.ok(events.every(({ timeUs }, at) => at === 0 || timeUs >= events[at - 1].timeUs))
    manager.enableMemoryProfiling({ eventCapacity: 0 })
    manager.deallocate(manager.allocateSystemMemory(1))
    const none = manager.getMemoryProfile()
    assert.deepEqual([none.events, none.droppedEvents, none.allocations], [[], 2, 1])
  })

  test('profiling starts empty each time, and its figures stay after it ends', (t) => {
    const manager = profiled(t)
    manager.deallocate(manager.allocateSystemMemory(1))
    manager.disableMemoryProfiling()
    manager.disableMemoryProfiling()
    manager.deallocate(manager.allocateSystemMemory(1))
    const ended = manager.getMemoryProfile()
    assert.deepEqual([ended.enabled, ended.allocations, ended.frees], [false, 1, 1])
    assert.equal(manager.getMemoryProfile().durationMs, ended.durationMs)
    manager.enableMemoryProfiling()
    assert.deepEqual([manager.getMemoryProfile().enabled, manager.getMemoryProfile().allocations], [true, 0])
  })
})

describe('histograms and estimates', () => {
  /** Returns the quantile of sorted numbers. */
  const exact = (sorted, share) => sorted[Math.ceil(sorted.length * share) - 1]

  test('sizes: the quantiles of the requested sizes', (t) => {
    const manager = profiled(t)
    const pool = manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: 64 * MiB })
    const below = generator(3)
    const sizes = Array.from({ length: 20_000 }, () => Math.ceil(2 ** (4 + below(1000) / 70)))
    for (const size of sizes) pool.allocate(size).free()
    sizes.sort((a, b) => a - b)
    const found = manager.getMemoryProfile().sizes
    assert.equal(found.count, 20_000)
    for (const [name, share] of [['p50', 0.5], ['p90', 0.9], ['p99', 0.99], ['p999', 0.999]]) {
      const truth = exact(sizes, share)
      assert.ok(Math.abs(found[name] - truth) <= truth / 100 + 1, `${name}: ${found[name]}, not ${truth}`)
    }
    assert.equal(found.buckets.reduce((sum, [, count]) => sum + count, 0), 20_000)
  })

  test('lifetimes and latencies agree with times measured in JavaScript', async (t) => {
    const manager = profiled(t, { sampleInterval: 1 })
    const lived = []
    for (const ms of [2, 30, 30, 30, 80]) {
      const before = performance.now()
      const buffer = manager.allocateSystemMemory(4096)
      const least = performance.now()
      await sleep(ms)
      const end = performance.now()
      manager.deallocate(buffer)
      lived.push([end - least, performance.now() - before])
    }
    const { lifetimesMs, latencyNs } = manager.getMemoryProfile()
    assert.equal(lifetimesMs.count, 5)
    const between = (value, [least, most]) => value >= least * 0.98 - 0.1 && value <= most * 1.02 + 0.1
    lived.sort(([a], [b]) => a - b)
    assert.ok(between(lifetimesMs.min, lived[0]), `${lifetimesMs.min}: ${lived[0]}`)
    assert.ok(between(lifetimesMs.p50, [lived[1][0], lived[3][1]]), `${lifetimesMs.p50}: ${lived[2]}`)
    assert.ok(between(lifetimesMs.max, lived[4]), `${lifetimesMs.max}: ${lived[4]}`)
    assert.equal(latencyNs.count, 5)
    assert.ok(latencyNs.min > 100 && latencyNs.p50 <= latencyNs.max, JSON.stringify(latencyNs))
  })

  test('a Poisson sample estimates the bytes of 100,000 allocations within 2 %', (t) => {
    const manager = profiled(t)
    const pool = manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: 256 * MiB })
    const below = generator(9)
    const kept = []
    let bytes = 0
    let live = 0
    function smallOnes() {
      const size = 64 + below(8000)
      pool.allocate(size).free()
      bytes += size
    }
    function largeOnes() {
      const size = 10_000 + below(200_000)
      const block = pool.allocate(size)
      bytes += size
      if (kept.length < 500 && below(4) === 0) {
        kept.push(block)
        live += size
      } else block.free()
    }
    for (let i = 0; i < 100_000; i++) (i % 4 === 0 ? largeOnes : smallOnes)()
    const { callSites, bytesAllocated, allocations } = manager.getMemoryProfile()
    assert.deepEqual([bytesAllocated, allocations], [bytes, 100_000])
    const sum = (name) => callSites.reduce((total, site) => total + site[name], 0)
    assert.ok(Math.abs(sum('totalBytes') / bytes - 1) < 0.02, `${sum('totalBytes')} is not ${bytes}`)
    assert.ok(Math.abs(sum('liveBytes') / live - 1) < 0.4, `${sum('liveBytes')} is not ${live}: it is a sample of 500`)
    // The first frame is the caller: each of the two has its share.
    const from = (name) => callSites.filter(({ stack }) => stack.split('\n')[0].includes(name))
    const large = from('largeOnes').reduce((total, site) => total + site.totalBytes, 0)
    assert.ok(large > bytes * 0.7 && from('smallOnes').length > 0, JSON.stringify(callSites.slice(0, 3)))
  })
})

describe('callers', () => {
  test('a sample has the frames of the user, and none of this package', (t) => {
    const manager = profiled(t, { sampleInterval: 1, stackDepth: 3 })
    const pool = manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: MiB })
    function whoAllocates() {
      return [
        manager.allocateNPUMemory(100, { tag: 'one' }),
        manager.allocateSystemMemory(100, { tag: 'one' }),
        pool.allocate(64).buffer,
        pool.allocate(64, { movable: true }).buffer,
        pool.allocateBuffer(64),
      ]
    }
    const buffers = whoAllocates()
    for (const buffer of buffers) {
      const { stack, kind } = manager.describe(buffer)
      const frames = stack.split('\n')
      assert.match(frames[0], /^at (.*)whoAllocates/, `${kind}: ${stack}`)
      assert.ok(frames.length <= 3)
      assert.ok(!stack.includes('src/js'), stack)
    }
    const sites = manager.getMemoryProfile().callSites
    assert.ok(sites.some(({ tag, liveBytes, liveCount }) => tag === 'one' && liveBytes === 100 && liveCount === 1))
    for (const buffer of buffers) manager.deallocate(buffer)
    for (const { liveBytes, liveCount, totalCount } of manager.getMemoryProfile().callSites) {
      assert.deepEqual([liveBytes, liveCount], [0, 0])
      assert.ok(totalCount >= 1)
    }
  })

  test('a block that compaction moved keeps its sample', (t) => {
    const manager = profiled(t, { sampleInterval: 1 })
    const pool = manager.createMemoryPool({
      name: 'p',
      kind: 'system',
      initialSize: 64 * KiB,
      maxSize: 256 * KiB,
      chunkSize: 64 * KiB,
    })
    const blocks = Array.from({ length: 32 }, (_, at) => pool.allocate(8 * KiB, { movable: true, tag: `block ${at}` }))
    blocks.forEach((block, at) => at % 2 === 0 && block.free())
    assert.ok(pool.defragment().moves.length > 0)
    const named = manager
      .takeSnapshot()
      .pools[0].chunkMaps.flatMap(({ blocks }) => blocks)
      .filter(({ id }) => id !== null)
    assert.deepEqual(named.map(({ stack }) => typeof stack), new Array(16).fill('string'))
    for (const { tag, liveCount } of manager.getMemoryProfile().callSites) {
      assert.equal(liveCount, Number(tag.slice(6)) % 2, tag)
    }
    blocks.forEach((block, at) => at % 2 === 1 && block.free())
    for (const { liveCount, totalCount } of manager.getMemoryProfile().callSites)
      assert.deepEqual([liveCount, totalCount], [0, 1])
  })

  test('cached call sites stay distinct, and show the output of the current prepareStackTrace', () => {
    // Not as a tail call: tail calls have no frame on Bun.
    const one = () => `${stackHere(2)}`
    const other = () => `${stackHere(2)}`
    const seen = (call) => Array.from({ length: 3 }, () => call())
    const [ones, others] = [seen(one), seen(other)]
    assert.deepEqual([new Set(ones).size, new Set(others).size], [1, 1])
    assert.notEqual(ones[0].split('\n')[0], others[0].split('\n')[0])
    assert.deepEqual([2, 1, 2].map((depth) => `${stackHere(depth)}`.split('\n').length), [2, 1, 2])
    // Evaluated code: several pieces have the same positions.
    const evaluated = ['Alpha', 'Gamma'].map((name) =>
      new Function('stackHere', `return class ${name} { go() { return \`\${stackHere(1)}\` } }`)(stackHere),
    )
    for (const Class of [...evaluated, ...evaluated]) {
      const said = new Class().go()
      assert.ok(said.includes(runtime === 'bun' ? 'go' : `${Class.name}.go`), said)
    }

    const { prepareStackTrace } = Error
    const builtIn = Array.from({ length: 2 }, () => [0].map(one)[0])
    assert.equal(builtIn[0], builtIn[1])
    const mine = () => 'Error\n    at mine (mine.js:1:1)'
    const prepared = []
    try {
      for (const prepare of [prepareStackTrace, mine, mine, prepareStackTrace]) {
        Error.prepareStackTrace = prepare
        prepared.push(one().includes('mine.js'))
        assert.equal(Error.prepareStackTrace, prepare)
      }
    } finally {
      Error.prepareStackTrace = prepareStackTrace
    }
    assert.deepEqual(prepared, [false, true, true, false])
  })

  test('asynchronous allocations have the frames of their awaiting callers', async (t) => {
    const manager = profiled(t, { sampleInterval: 1 })
    async function whoAwaits() {
      return await manager.allocateNPUMemoryAsync(5000)
    }
    const buffer = await whoAwaits()
    const { stack } = manager.describe(buffer)
    assert.equal(typeof stack, 'string')
    if (process.versions.bun === undefined) assert.match(stack, /whoAwaits/)
  })

  test('the stack of memory without a sample is null', (t) => {
    const manager = open(t)
    const before = manager.allocateSystemMemory(100)
    manager.enableMemoryProfiling({ sampleInterval: 2 ** 50 })
    assert.equal(manager.describe(before).stack, null)
    assert.equal(manager.describe(manager.allocateSystemMemory(100)).stack, null)
  })

  test('changes of a program to Error do not break allocation', (t) => {
    const manager = profiled(t, { sampleInterval: 1 })
    const { prepareStackTrace, stackTraceLimit } = Error
    t.after(() => Object.assign(Error, { prepareStackTrace, stackTraceLimit }))
    const prepare = [
      () => 17,
      () => {
        throw new Error('mine')
      },
      () => (manager.deallocate(manager.allocateSystemMemory(8)), 'at nowhere'),
    ]
    for (const odd of prepare) {
      Error.prepareStackTrace = odd
      Error.stackTraceLimit = 1
      manager.deallocate(manager.allocateSystemMemory(8))
      assert.equal(Error.stackTraceLimit, 1)
    }
    Error.prepareStackTrace = prepareStackTrace
    assert.ok(manager.getMemoryProfile().allocations >= 3)
  })

  test(
    'stacks are those of the sources, where Node maps them',
    { skip: notOn({ bun: 'it has its own flag', deno: 'it maps by itself' }) },
    () => {
      const { result } = runChild('source-mapped.mjs', { flags: ['--enable-source-maps'] })
      assert.match(result.stack, /original\.ts:7/, result.stack)
    },
  )
})

describe('leaks', () => {
  test('each leak is reported once, with its stack, and memory freed in time is not', async (t) => {
    const manager = profiled(t, { sampleInterval: 1, leakAfterMs: 100 })
    const pool = manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: MiB })
    const told = []
    manager.on('leak', (leak) => told.push(leak))
    function whoLeaks() {
      return [manager.allocateNPUMemory(5000, { tag: 'leaked' }), pool.allocate(640)]
    }
    const [buffer, block] = whoLeaks()
    manager.deallocate(manager.allocateSystemMemory(100))
    pool.allocate(64).free()
    for (let i = 0; i < 100 && told.length < 2; i++) await sleep(20)
    await sleep(200)
    told.sort((a, b) => a.size - b.size)
    assert.deepEqual(told.map(({ size, tag, pool }) => [size, tag, pool]), [[640, null, 'p'], [5000, 'leaked', null]])
    assert.deepEqual([told[0].id, told[0].address], [block.id, block.address])
    assert.equal(told[1].id, manager.describe(buffer).id)
    for (const { stack, allocatedAt } of told) {
      assert.match(stack, /whoLeaks/)
      assert.ok(Math.abs(Date.now() - allocatedAt) < 60_000)
    }
    assert.equal(manager.getMemoryProfile().leaks.length, 2)
  })

  test('profiling keeps neither the process nor the manager alive', () => {
    const { result } = runChild('profiled-and-dropped.mjs', { flags: process.versions.bun ? [] : ['--expose-gc'] })
    assert.equal(result.ended, true)
    if (process.versions.bun === undefined) assert.equal(result.collected, true)
  })
})

describe('snapshots', () => {
  test('a snapshot has all live memory, and blocks and gaps tile each chunk', (t) => {
    const manager = profiled(t, { sampleInterval: 1 })
    const pool = manager.createMemoryPool({
      name: 'kv',
      kind: 'npu',
      initialSize: MiB,
      maxSize: 3 * MiB,
      chunkSize: MiB,
    })
    const blocks = Array.from({ length: 100 }, (_, at) =>
      pool.allocate(1000 + at * 200, at % 3 === 0 ? { movable: true } : undefined),
    )
    blocks.forEach((block, at) => at % 5 === 0 && block.free())
    const sliced = pool.allocateBuffer(777, { tag: 'slice' })
    const shown = blocks[1].buffer
    const npu = manager.allocateNPUMemory(5000, { tag: 'a' })
    const system = manager.allocateSystemMemory(6000)

    const snapshot = manager.takeSnapshot()
    assert.deepEqual([snapshot.version, snapshot.device, snapshot.stats], [1, manager.device, manager.getMemoryStats()])
    const described = [sliced, shown, npu, system].map((buffer) => manager.describe(buffer))
    const byId = (a, b) => a.id - b.id
    assert.deepEqual(snapshot.buffers.sort(byId), described.sort(byId))

    const [{ chunkMaps, ...stats }] = snapshot.pools
    assert.deepEqual(stats, { ...pool.stats(), tag: null })
    assert.equal(chunkMaps.length, stats.chunks)
    for (const { size, blocks } of chunkMaps) {
      let end = 0
      for (const block of blocks) {
        assert.equal(block.offset, end)
        end += block.size
      }
      assert.equal(end, size)
    }
    const used = chunkMaps.flatMap(({ blocks }) => blocks).filter(({ id }) => id !== null)
    assert.equal(used.length, stats.liveAllocations)
    assert.equal(used.reduce((sum, { size }) => sum + size, 0), stats.allocated)
    const ids = new Set(used.map(({ id }) => id))
    for (const [at, block] of blocks.entries()) {
      if (at % 5 !== 0 && at !== 1) assert.ok(ids.has(block.id), `block ${at}`)
    }
    const slice = used.find(({ id }) => id === manager.describe(sliced).id)
    assert.deepEqual([slice.tag, typeof slice.stack], ['slice', 'string'])
    assert.ok(used.filter(({ stack }) => stack !== null).length >= 80)
  })

  test('its file follows the published schema, and the difference of two names the growth', async (t) => {
    const manager = profiled(t)
    const pool = manager.createMemoryPool({ name: 'kv', kind: 'system', initialSize: MiB })
    const kept = [pool.allocate(100), pool.allocate(200, { movable: true })]
    const before = manager.takeSnapshot()
    kept.push(manager.allocateNPUMemory(5000, { tag: 'grown' }), manager.allocateSystemMemory(1))
    const directory = mkdtempSync(join(tmpdir(), 'rkllm-profile-'))
    t.after(() => rmSync(directory, { recursive: true }))
    await manager.writeReport(join(directory, 'a.json'))
    const written = JSON.parse(readFileSync(join(directory, 'a.json'), 'utf8'))
    const validate = new Ajv({ strict: false }).compile(require('../../../src/js/report/snapshot.schema.json'))
    assert.ok(validate(written), JSON.stringify(validate.errors))
    const { byTag } = diffSnapshots(before, manager.takeSnapshot())
    assert.equal(byTag[0].tag, 'grown')
    assert.equal(kept.length, 4)
  })
})

describe('reports', () => {
  test('a replay of the event log of a workload needs the same capacity', async (t) => {
    const manager = profiled(t)
    const pool = manager.createMemoryPool({ name: 'kv', kind: 'system', initialSize: 8 * MiB })
    const below = generator(5)
    const live = []
    for (let i = 0; i < 5000; i++) {
      if (live.length > 200) live.splice(below(live.length), 1)[0].free()
      live.push(pool.allocate(64 + below(20_000)))
    }
    live.forEach((block) => block.free())
    const directory = mkdtempSync(join(tmpdir(), 'rkllm-profile-'))
    t.after(() => rmSync(directory, { recursive: true }))
    await manager.writeReport(join(directory, 'log.csv'))
    const replayed = replayEventLog(readFileSync(join(directory, 'log.csv'), 'utf8'), {
      capacity: 8 * MiB,
      pools: ['kv'],
    })
    assert.deepEqual([replayed.fits, replayed.allocations, replayed.frees, replayed.liveAtEnd], [true, 5000, 5000, 0])
    assert.equal(replayed.peakAllocated, pool.stats().peakAllocated, 'the same suballocator, the same requests')
  })

  test('every format, of a used manager', async (t) => {
    const manager = profiled(t, { sampleInterval: 1 })
    const pool = manager.createMemoryPool({ name: 'kv', kind: 'npu', initialSize: MiB })
    const kept = [pool.allocate(100), manager.allocateNPUMemory(5000, { tag: 'a' })]
    const directory = mkdtempSync(join(tmpdir(), 'rkllm-profile-'))
    t.after(() => rmSync(directory, { recursive: true }))
    for (const name of ['a.html', 'a.json', 'a.csv', 'a.pb.gz', 'a.trace.json', 'a.prom']) {
      await manager.writeReport(join(directory, name))
      assert.ok(readFileSync(join(directory, name)).length > 200, name)
    }
    const unknown = await manager.writeReport(join(directory, 'a.txt')).catch((error) => error)
    refuses(() => {
      throw unknown
    }, 'ERR_OUT_OF_RANGE')
    assert.equal(kept.length, 2)
  })
})

describe('refusals', () => {
  test('options by name, and values', (t) => {
    const manager = open(t)
    const misspelt = refuses(() => manager.enableMemoryProfiling({ sampleIntervall: 1 }), 'ERR_INVALID_ARG_TYPE')
    assert.match(misspelt.hint, /sampleInterval/)
    for (const options of [
      { sampleInterval: 0 }, { sampleInterval: 1.5 }, { eventCapacity: -1 }, { eventCapacity: 2 ** 25 },
      { stackDepth: 0 }, { leakAfterMs: -1 },
    ]) {
      refuses(() => manager.enableMemoryProfiling(options), 'ERR_OUT_OF_RANGE', JSON.stringify(options))
    }
    refuses(() => manager.enableMemoryProfiling({ stackDepth: '3' }), 'ERR_INVALID_ARG_TYPE')
    refuses(() => new MemoryManager({ backend, device, profiling: 'yes' }), 'ERR_INVALID_ARG_TYPE')
    assert.equal(manager.getMemoryProfile().enabled, false)
  })

  test('every verb, after dispose', async () => {
    const manager = new MemoryManager({ backend, device, profiling: { leakAfterMs: 1 } })
    manager.dispose()
    await sleep(120)
    for (const verb of ['enableMemoryProfiling', 'disableMemoryProfiling', 'getMemoryProfile', 'takeSnapshot']) {
      refuses(() => manager[verb](), 'ERR_MANAGER_DISPOSED', verb)
    }
    const late = await manager.writeReport('/tmp/a.json').catch((error) => error)
    assert.equal(late.code, 'ERR_MANAGER_DISPOSED')
  })
})
