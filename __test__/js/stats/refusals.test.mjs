/** One refused request is one refusal, however often it was tried: by kind, pool, tag, profile, metrics, channel. */

import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { test } from 'node:test'

import { KiB, MiB, needsSimulated, open } from '../../support/helpers.mjs'

const page = 16 * KiB

/**
 * A manager at its limit, with a pool `spare` whose empty chunk reclaiming can give back.
 *
 * @param {import('node:test').TestContext} t
 */
function crowded(t) {
  const memory = open(t, {
    limits: { npu: { max: 16 * MiB }, tags: { small: { max: 64 * KiB } } },
    cleanup: { defragmentAbove: null },
    profiling: true,
  })
  const kv = memory.createMemoryPool({ name: 'kv', initialSize: MiB, maxSize: 8 * MiB, tag: 'kv' })
  const spare = memory.createMemoryPool({ name: 'spare', initialSize: MiB, maxSize: 12 * MiB })
  /** Gives `spare` an empty chunk, so that the next request succeeds at its second try if it fits without it. */
  const grow = () => spare.allocate(10 * MiB).free()
  const counts = () => {
    const { npu, system, pools, tags } = memory.getMemoryUsage()
    const byName = Object.fromEntries(pools.map(({ name, failedAllocations }) => [name, failedAllocations]))
    const fails = memory.getMemoryProfile().events.filter(({ type }) => type === 'fail').length
    const of = (tag) => tags[tag]?.failedAllocations ?? 0
    return {
      npu: npu.failedAllocations, system: system.failedAllocations, kv: byName.kv, spare: byName.spare,
      tagged: of('a') + of('kv') + of('small'), events: fails,
    }
  }
  return { memory, kv, spare, grow, counts }
}

/** The requests, as functions of the size; each in both forms where there are two. */
const requests = {
  allocateNPUMemory: ({ memory }, size) => memory.allocateNPUMemory(size, { tag: 'a' }),
  allocateNPUMemoryAsync: ({ memory }, size) => memory.allocateNPUMemoryAsync(size, { tag: 'a' }),
  createMemoryPool: ({ memory }, size) => memory.createMemoryPool({ name: 'new', initialSize: size, tag: 'a' }),
  createMemoryPoolAsync: ({ memory }, size) =>
    memory.createMemoryPoolAsync({ name: 'new', initialSize: size, tag: 'a' }),
  allocate: ({ kv }, size) => kv.allocate(size),
  'allocate, tagged': ({ kv }, size) => kv.allocate(size, { tag: 'a' }),
  'allocate, movable': ({ kv }, size) => kv.allocate(size, { tag: 'a', movable: true }),
  allocateAsync: ({ kv }, size) => kv.allocateAsync(size, { tag: 'a' }),
  'allocateAsync, movable': ({ kv }, size) => kv.allocateAsync(size, { tag: 'a', movable: true }),
  allocateFromPool: ({ memory, kv }, size) => memory.allocateFromPool(kv, size, { tag: 'a' }),
  allocateFromPoolAsync: ({ memory, kv }, size) => memory.allocateFromPoolAsync(kv, size, { tag: 'a' }),
}
const ofPool = (name) => name.startsWith('allocate') && !name.startsWith('allocateNPU')

/** Runs `work` and returns the messages of the channel `rkllm-memory:fail` meanwhile. */
async function published(work) {
  const messages = []
  const listen = (message) => messages.push(message)
  subscribe('rkllm-memory:fail', listen)
  try {
    await work()
  } finally {
    unsubscribe('rkllm-memory:fail', listen)
  }
  return messages
}

for (const [name, request] of Object.entries(requests)) {
  test(`${name}: a request that succeeds at its second try is no refusal`, needsSimulated, async (t) => {
    const state = crowded(t)
    state.grow()
    const before = state.counts()
    const reserved = state.spare.stats().reserved
    const messages = await published(() => request(state, 6 * MiB))
    assert.ok(state.spare.stats().reserved < reserved, 'the first try was refused: memory was reclaimed')
    assert.deepEqual([state.counts(), messages.length], [before, 0])
  })

  test(`${name}: a request that no try satisfies is one refusal`, needsSimulated, async (t) => {
    const state = crowded(t)
    const held = [state.memory.allocateNPUMemory(10 * MiB), state.kv.allocate(MiB)]
    const before = state.counts()
    const hold = state.memory.reserve(2 * MiB)
    const messages = await published(() =>
      assert.rejects(async () => request(state, 6 * MiB), { code: 'ERR_MEMORY_LIMIT' }),
    )
    hold.release()
    for (const each of held) state.memory.deallocate(each)
    const pooled = ofPool(name)
    const expected = { ...before, npu: before.npu + 1, tagged: before.tagged + 1, events: before.events + 1 }
    if (pooled) expected.kv++
    assert.deepEqual([state.counts(), messages.length], [expected, 1])
    const [message] = messages
    assert.deepEqual([message.kind, message.size, message.pool], ['npu', 6 * MiB, pooled ? 'kv' : message.pool])
    assert.match(state.memory.metrics(), new RegExp(`failures_total\\{kind="npu"\\} ${expected.npu}\n`))
  })
}

test('system memory, reservations and adoptions count once too', needsSimulated, async (t) => {
  const memory = open(t, { limits: { system: { max: page }, npu: { max: 4 * MiB } }, profiling: true })
  const fails = () => {
    const { npu, system } = memory.getMemoryUsage()
    return [npu.failedAllocations, system.failedAllocations]
  }
  assert.throws(() => memory.allocateSystemMemory(MiB), { code: 'ERR_MEMORY_LIMIT' })
  assert.deepEqual(fails(), [0, 1])
  assert.throws(() => memory.reserve(8 * MiB), { code: 'ERR_MEMORY_LIMIT' })
  assert.deepEqual(fails(), [1, 1])
  const other = open(t)
  const buffer = other.allocateNPUMemory(8 * MiB, { tag: 'shared' })
  const token = other.share(buffer)
  assert.throws(() => memory.adopt(token), { code: 'ERR_MEMORY_LIMIT' })
  assert.deepEqual(fails(), [2, 1])
  await assert.rejects(memory.adoptAsync(token), { code: 'ERR_MEMORY_LIMIT' })
  assert.deepEqual(fails(), [3, 1])
  assert.equal(memory.getMemoryUsage().tags.shared.failedAllocations, 2)
  other.deallocate(buffer)
})

test('a request that its caller cancels between tries is no refusal', needsSimulated, async (t) => {
  const { memory, counts } = crowded(t)
  const before = counts()
  const cancel = new AbortController()
  const pending = memory.allocateNPUMemoryAsync(15.5 * MiB, { signal: cancel.signal })
  setImmediate(() => cancel.abort())
  await assert.rejects(pending, { name: 'AbortError' })
  assert.deepEqual(counts(), before)
})

test('a request that the end of its manager interrupts breaks nothing', needsSimulated, async (t) => {
  const { memory } = crowded(t)
  const pending = memory.allocateNPUMemoryAsync(15.5 * MiB)
  setImmediate(() => memory.dispose())
  await assert.rejects(pending, { name: 'MemoryError' })
})
