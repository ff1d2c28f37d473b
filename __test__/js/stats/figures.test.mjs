/** Figures that a user sees are true or absent: refusals, limits, fragmentation, leaks, tags, JSON. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { KiB, MiB, open, refuses } from '../../support/helpers.mjs'

const cleanup = { defragmentAbove: null, onExhaustion: false }
const page = 16 * KiB

/** Waits for timers of the library. */
async function until(done) {
  for (let i = 0; i < 3000 && !done(); i++) await sleep(10)
}

test('every refusal is counted for its kind, its pool and its tag, in metrics and events', (t) => {
  const limits = { npu: { max: 8 * MiB }, tags: { a: { max: 64 * KiB } } }
  const memory = open(t, { limits, cleanup, profiling: true })
  const kv = memory.createMemoryPool({ name: 'kv', initialSize: MiB, maxSize: 2 * MiB, tag: 'kv' })
  const counts = () => {
    const { npu, pools, tags } = memory.getMemoryUsage()
    const of = (tag) => tags[tag]?.failedAllocations ?? 0
    return [npu.failedAllocations, pools[0].failedAllocations, of('a'), of('kv')]
  }
  const refused = (code, allocate, expected) => {
    const before = counts()
    refuses(allocate, code)
    assert.deepEqual(
      counts().map((count, at) => count - before[at]),
      expected,
      String(allocate),
    )
  }
  const large = 128 * KiB
  refused('ERR_MEMORY_LIMIT', () => memory.allocateNPUMemory(large, { tag: 'a' }), [1, 0, 1, 0])
  refused('ERR_MEMORY_LIMIT', () => kv.allocate(large, { tag: 'a' }), [1, 1, 1, 0])
  refused('ERR_MEMORY_LIMIT', () => kv.allocate(large, { tag: 'a', movable: true }), [1, 1, 1, 0])
  refused('ERR_MEMORY_LIMIT', () => kv.allocateBuffer(large, { tag: 'a' }), [1, 1, 1, 0])
  refused('ERR_OUT_OF_RANGE', () => kv.allocate(3 * MiB), [1, 1, 0, 1])
  refused('ERR_OUT_OF_RANGE', () => kv.allocate(3 * MiB, { movable: true }), [1, 1, 0, 1])
  refused('ERR_OUT_OF_RANGE', () => kv.allocateBuffer(3 * MiB), [1, 1, 0, 1])
  const create = () => memory.createMemoryPool({ name: 'x', initialSize: 32 * MiB, tag: 'kv' })
  refused('ERR_MEMORY_LIMIT', create, [1, 0, 0, 1])
  refused('ERR_MEMORY_LIMIT', () => memory.reserve(32 * MiB, { tag: 'kv' }), [1, 0, 0, 1])
  memory.setMemoryLimits({ npu: { max: MiB + 64 * KiB } })
  kv.allocate(MiB)
  refused('ERR_MEMORY_LIMIT', () => kv.allocate(MiB), [1, 1, 0, 1])

  const [npu, pool, a, tag] = counts()
  const metrics = memory.metrics()
  for (const line of [
    `rkllm_memory_failures_total{kind="npu"} ${npu}`,
    `rkllm_memory_pool_failures_total{pool="kv",kind="npu"} ${pool}`,
    `rkllm_memory_tag_failures_total{tag="a"} ${a}`,
    `rkllm_memory_tag_failures_total{tag="kv"} ${tag}`,
  ]) {
    assert.ok(metrics.includes(`${line}\n`), line)
  }
  const failed = memory.getMemoryProfile().events.filter(({ type }) => type === 'fail')
  const seen = (pool, tag) => failed.filter((event) => event.pool === pool && event.tag === tag).length
  assert.deepEqual([seen('kv', 'a'), seen('kv', 'kv'), seen(null, 'a')], [3, 4, 1])
})

test('`taken` is the usage that a limit compares, reservations and chunks included', (t) => {
  const limits = { npu: { max: 4 * MiB }, total: { max: 8 * MiB }, tags: { w: { max: 2 * MiB } } }
  const memory = open(t, { limits, cleanup })
  memory.reserve(MiB, { tag: 'w' })
  memory.createMemoryPool({ name: 'p', initialSize: MiB, maxSize: 3 * MiB })
  const { npu, tags, total, pools } = memory.getMemoryUsage()
  assert.deepEqual([npu.used, npu.taken, npu.limit], [MiB, 2 * MiB, 4 * MiB])
  assert.deepEqual([tags.w.used, tags.w.taken, tags.w.limit], [0, MiB, 2 * MiB])
  assert.deepEqual(total, { taken: 2 * MiB, limit: 8 * MiB })
  assert.equal(pools[0].maxSize, 3 * MiB)
  // `taken` and not a byte less is what a request has to fit beside.
  const { available } = refuses(() => memory.allocateNPUMemory(3 * MiB), 'ERR_MEMORY_LIMIT')
  assert.equal(available, npu.limit - npu.taken)
  const metrics = memory.metrics()
  for (const line of [
    `taken_bytes{kind="npu"} ${2 * MiB}`,
    `tag_taken_bytes{tag="w"} ${MiB}`,
    `tag_limit_bytes{tag="w"} ${2 * MiB}`,
    `total_taken_bytes ${2 * MiB}`,
    `total_limit_bytes ${8 * MiB}`,
    `pool_max_bytes{pool="p",kind="npu"} ${3 * MiB}`,
  ]) {
    assert.ok(metrics.includes(`rkllm_memory_${line}\n`), line)
  }
})

test('blocks of a fixed size are not fragmented', (t) => {
  const memory = open(t)
  const pool = memory.createMemoryPool({ name: 'f', kind: 'system', initialSize: 64 * page, blockSize: page })
  const blocks = Array.from({ length: 8 }, () => pool.allocate(100))
  blocks[3].free()
  assert.deepEqual([pool.stats().fragmentation, memory.getMemoryUsage().fragmentation], [0, 0])
})

test("a session's own pool, which is full by design, warns of nothing; a user's pool does", async (t) => {
  const memory = open(t)
  const scopes = []
  memory.on('warning', ({ scope }) => scopes.push(scope))
  memory.createInferenceBuffers({ kind: 'npu', header: '1.2', contextLength: 512, hiddenSize: 256, vocabSize: 1024 })
  await new Promise(setImmediate)
  assert.deepEqual(scopes, [])
  const pool = memory.createMemoryPool({ name: 'full', kind: 'system', initialSize: 64 * KiB })
  pool.allocate(64 * KiB)
  await new Promise(setImmediate)
  assert.deepEqual(scopes, ['pool:full'])
})

test('leaks are what still lives', async (t) => {
  const memory = open(t, { profiling: { sampleInterval: 1, leakAfterMs: 50 } })
  const told = []
  memory.on('leak', (leak) => told.push(leak.id))
  const pool = memory.createMemoryPool({ name: 'p', kind: 'system', initialSize: 64 * KiB })
  const [freed, kept] = [memory.allocateSystemMemory(page), memory.allocateSystemMemory(page)]
  const [gone, stays] = [pool.allocate(64), pool.allocate(64)]
  await until(() => told.length === 4)
  const id = memory.describe(kept).id
  memory.deallocate(freed)
  gone.free()
  const { leaks, leakCount } = memory.getMemoryProfile()
  assert.deepEqual(new Set(leaks.map((leak) => leak.id)), new Set([id, stays.id]))
  assert.equal(leakCount, 2)
  memory.disableMemoryProfiling()
  stays.free()
  assert.deepEqual(
    memory.getMemoryProfile().leaks.map((leak) => leak.id),
    [id],
  )
})

test("a slice without a tag of its own is held under its pool's", (t) => {
  const memory = open(t)
  const pool = memory.createMemoryPool({ name: 'p', kind: 'system', initialSize: 64 * KiB, tag: 'kv' })
  pool.allocate(64)
  pool.allocate(64, { tag: 'own' })
  const snapshot = memory.takeSnapshot()
  assert.equal(snapshot.pools[0].tag, 'kv')
  const tags = snapshot.pools[0].chunkMaps[0].blocks.map(({ id, tag }) => (id === null ? 'gap' : tag))
  assert.deepEqual(tags, ['kv', 'own', 'gap'])
})

test('descriptions, snapshots and profiles survive JSON.stringify, with addresses as strings', async (t) => {
  const memory = open(t, { profiling: { sampleInterval: 1, leakAfterMs: 50 } })
  const buffer = memory.allocateNPUMemory(page, { dedicated: true })
  const told = []
  memory.on('leak', (leak) => told.push(leak))
  await until(() => told.length === 1)
  const info = memory.describe(buffer)
  const copy = JSON.parse(JSON.stringify(info))
  assert.equal(BigInt(copy.address), info.address)
  assert.match(copy.address, /^0x[0-9a-f]+$/)
  if (info.deviceAddress !== null) assert.equal(BigInt(copy.deviceAddress), info.deviceAddress)
  const { buffers } = JSON.parse(JSON.stringify(memory.takeSnapshot()))
  assert.deepEqual(buffers[0].address, copy.address)
  const { leaks } = JSON.parse(JSON.stringify(memory.getMemoryProfile()))
  assert.deepEqual([leaks[0].address, JSON.parse(JSON.stringify(told[0])).address], [copy.address, copy.address])
  // The helper makes it, and only the manager holds it.
  assert.deepEqual(Object.keys(structuredClone(info)), Object.keys(info))
})

test('figures of the process are numbers or null', (t) => {
  const { addresses, ...figures } = open(t).getMemoryUsage().process
  for (const figure of [...Object.values(figures), ...Object.values(addresses)]) {
    assert.ok(figure === null || Number.isSafeInteger(figure), String(figure))
  }
})
