/** The asynchronous twins of pools, sessions, shared memory and `dispose`. */

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

import { MemoryBlock, MemoryPool } from '../../../index.js'
import {
  assertNothingLeft, backend, device, MiB, needsSimulated, open, refuses, rejects, runChild, simulated,
  slow,
} from '../../support/helpers.mjs'

/** Waits until the driver has taken back the memory of aborted calls. */
async function untilUnused(manager) {
  // Calls begin in their order, on a few threads: the aborted ones have begun once these have ended.
  const later = await Promise.all(Array.from({ length: 4 }, () => manager.allocateNPUMemoryAsync(MiB)))
  for (const buffer of later) manager.deallocate(buffer)
  const used = () => manager.getNPUMemoryStats().domains.reduce((sum, domain) => sum + domain.used, 0)
  for (let i = 0; i < 2000 && used() > 0; i++) await sleep(2)
  assert.equal(used(), 0)
}

/** Each twin, with its driver call: on a manager with a pool "grows" of no byte, which each allocation grows. */
const TWINS = {
  createMemoryPoolAsync: (manager, options) =>
    manager.createMemoryPoolAsync({ name: 'new', initialSize: MiB, ...options }),
  allocateAsync: (manager, options) => manager.getMemoryPool('grows').allocateAsync(MiB, options),
  'allocateAsync, movable': (manager, options) =>
    manager.getMemoryPool('grows').allocateAsync(MiB, { movable: true, ...options }),
  allocateBufferAsync: (manager, options) => manager.getMemoryPool('grows').allocateBufferAsync(MiB, options),
  allocateFromPoolAsync: (manager, options) => manager.allocateFromPoolAsync('grows', MiB, options),
  createInferenceBuffersAsync: (manager, options) =>
    manager.createInferenceBuffersAsync({ kind: 'npu', contextLength: 512, hiddenSize: 64, ...options }),
  'createInferenceBuffersAsync, with options': (manager, options) =>
    manager.createInferenceBuffersAsync({ kind: 'npu', contextLength: 512, hiddenSize: 64 }, options),
}

function withPool(t, options) {
  const manager = open(t, options)
  manager.createMemoryPool({ name: 'grows', initialSize: 0, chunkSize: MiB, maxSize: 64 * MiB, reuseAfterMs: 0 })
  return manager
}

test('the twins equal the synchronous verbs', async (t) => {
  const manager = open(t)
  const pool = await manager.createMemoryPoolAsync({ name: 'kv', initialSize: MiB, maxSize: 8 * MiB, tag: 'pool' })
  assert.ok(pool instanceof MemoryPool)
  assert.deepEqual([pool.name, pool.kind, pool.stats().reserved], ['kv', 'npu', MiB])
  assert.equal(manager.getMemoryPool('kv'), pool)
  await rejects(manager.createMemoryPoolAsync({ name: 'kv', initialSize: MiB }), 'ERR_POOL_EXISTS')
  const system = await manager.createMemoryPoolAsync({ name: 'ram', kind: 'system', initialSize: MiB })
  assert.equal((await system.allocateAsync(100)).deviceAddress, null)
  const places = new Set()
  for (const size of [100, 2 * MiB, MiB]) {
    for (const options of [undefined, { tag: 'a' }, { zeroed: true, alignment: 4096 }, { movable: true, tag: 'b' }]) {
      const block = await pool.allocateAsync(size, options)
      assert.ok(block instanceof MemoryBlock)
      assert.deepEqual([block.size, block.movable, block.freed], [size, options?.movable === true, false])
      if (options?.alignment) assert.equal(Number(block.address) % options.alignment, 0)
      assert.equal(manager.describe(block).tag, options?.tag ?? null)
      assert.equal(manager.describe(block).id, block.id)
      new Uint8Array(block.buffer).fill(7)
      places.add(block.address)
      block.free()
    }
    const buffer = await manager.allocateFromPoolAsync('kv', size, { tag: 'c', zeroed: true })
    assert.ok(new Uint8Array(buffer).every((byte) => byte === 0))
    assert.deepEqual([manager.describe(buffer).pool, manager.describe(buffer).tag], ['kv', 'c'])
    const twin = await pool.allocateBufferAsync(100)
    manager.deallocate(twin)
    manager.deallocate(buffer)
  }
  const buffer = manager.allocateNPUMemory(5000)
  const adopted = await manager.adoptAsync(manager.share(buffer))
  new Uint8Array(buffer).fill(3)
  assert.equal(new Uint8Array(adopted)[4999], 3)
  manager.deallocate(adopted)
  manager.deallocate(buffer)
  assert.equal(pool.stats().liveAllocations, 0)
  const session = await manager.createInferenceBuffersAsync({
    kind: 'npu', contextLength: 16, hiddenSize: 8, vocabSize: 8, doubleBuffered: true, allocation: { zeroed: false },
  })
  assert.equal(session.embeddings.length, 128)
  assert.ok([session, session.back].every(({ logits }) => logits.every((value) => value === 0)))
  assert.equal(session.tokenInput(3), session.addresses.rkllmInput)
  session.dispose()
  await manager.disposeAsync()
  assert.ok(manager.disposed && pool.destroyed)
})

test('bad input rejects, and nothing is allocated', async (t) => {
  const manager = withPool(t)
  const pool = manager.getMemoryPool('grows')
  for (const size of [0, -1, 1.5, NaN, 65 * MiB]) {
    await rejects(pool.allocateAsync(size), 'ERR_OUT_OF_RANGE', size)
    await rejects(pool.allocateAsync(size, { movable: true }), 'ERR_OUT_OF_RANGE', size)
    await rejects(manager.allocateFromPoolAsync(pool, size), 'ERR_OUT_OF_RANGE', size)
  }
  const misspelt = await rejects(pool.allocateAsync(1, { sgnal: 1 }), 'ERR_INVALID_ARG_TYPE')
  assert.match(misspelt.hint, /"signal"/)
  refuses(() => pool.allocate(1, { signal: AbortSignal.timeout(1e6) }), 'ERR_INVALID_ARG_TYPE')
  for (const [name, twin] of Object.entries(TWINS)) {
    for (const signal of [null, 1, {}, { aborted: false }]) {
      await rejects(twin(manager, { signal }), 'ERR_INVALID_ARG_TYPE', name)
    }
  }
  await rejects(pool.allocateAsync(1, { alignment: 3 }), 'ERR_OUT_OF_RANGE')
  await rejects(pool.allocateAsync(1, { alignment: 2 ** 25 }), 'ERR_OUT_OF_RANGE')
  await rejects(pool.allocateBufferAsync(1, { movable: true }), 'ERR_INVALID_ARG_TYPE')
  await rejects(manager.allocateFromPoolAsync('none', 1), 'ERR_POOL_UNKNOWN')
  await rejects(manager.createMemoryPoolAsync(), 'ERR_INVALID_ARG_TYPE')
  await rejects(manager.createMemoryPoolAsync({ name: 'x' }), 'ERR_INVALID_ARG_TYPE')
  await rejects(manager.createInferenceBuffersAsync({}), 'ERR_INVALID_ARG_TYPE')
  await rejects(manager.adoptAsync({ token: 'x', size: 1 }), 'ERR_UNKNOWN_BUFFER')
  assert.deepEqual([pool.stats().reserved, pool.stats().liveAllocations], [0, 0])
  manager.destroyMemoryPool(pool)
  await rejects(pool.allocateAsync(1), 'ERR_POOL_DESTROYED')
  await rejects(manager.allocateFromPoolAsync(pool, 1), 'ERR_POOL_DESTROYED')
  assertNothingLeft(manager)
})

describe('with a slow driver', { skip: needsSimulated }, () => {
  for (const [name, twin] of Object.entries(TWINS)) {
    test(`${name}: the event loop turns meanwhile`, async (t) => {
      const manager = withPool(t, slow(500))
      const order = []
      const made = twin(manager, {}).then(() => order.push('made'))
      await nextTurn()
      order.push('turn')
      await made
      assert.deepEqual(order, ['turn', 'made'])
    })

    test(`${name}: an abort rejects at once, and the late memory is freed`, async (t) => {
      const manager = withPool(t, slow(20))
      const reason = new Error('changed my mind')
      await assert.rejects(twin(manager, { signal: AbortSignal.abort(reason) }), (error) => error === reason)
      assert.equal(manager.getNPUMemoryStats().objects, 0, 'an aborted signal allocates nothing')
      const controller = new AbortController()
      const aborted = twin(manager, { signal: controller.signal })
      controller.abort(reason)
      // The name is free at once.
      if (name === 'createMemoryPoolAsync') manager.createMemoryPool({ name: 'new', initialSize: 0, maxSize: 1 })
      await assert.rejects(aborted, (error) => error === reason)
      assert.equal(manager.getMemoryStats().liveAllocations, 0)
      await untilUnused(manager)
      assertNothingLeft(manager)
      assert.equal(manager.getMemoryUsage().pools.length, name === 'createMemoryPoolAsync' ? 2 : 1)
    })

    test(`${name}: dispose ends it, and the late memory is freed`, async (t) => {
      for (const dispose of ['dispose', 'disposeAsync']) {
        const manager = withPool(t, slow(20))
        const pending = rejects(twin(manager, {}), 'ERR_MANAGER_DISPOSED')
        await manager[dispose]()
        await pending
      }
    })
  }

  test('what the chunks have room for waits for no driver', async (t) => {
    const manager = withPool(t, slow(200))
    const pool = manager.getMemoryPool('grows')
    const first = await pool.allocateAsync(1000)
    const order = []
    // All threads that wait for drivers do.
    const wait = () => manager.allocateNPUMemoryAsync(MiB).then(() => order.push('driver'))
    const waiting = Array.from({ length: 8 }, wait)
    const served = [
      pool.allocateAsync(1000), pool.allocateAsync(1000, { movable: true }), pool.allocateBufferAsync(1000),
    ].map((promise) => promise.then(() => order.push('pool')))
    await Promise.all(served)
    assert.deepEqual(order, ['pool', 'pool', 'pool'])
    first.free()
    await Promise.all(waiting)
  })

  test('bytes of another owner are cleared on another thread', async (t) => {
    const manager = open(t, slow(500))
    const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB, reuseAfterMs: 0 })
    const first = pool.allocate(MiB, { tag: 'a' })
    new Uint8Array(first.buffer).fill(9)
    first.free()
    const order = []
    const made = pool.allocateAsync(MiB, { tag: 'b' })
    void made.then(() => order.push('made'))
    await nextTurn()
    order.push('turn')
    const block = await made
    assert.deepEqual(order, ['turn', 'made'])
    assert.ok(new Uint8Array(block.buffer).every((byte) => byte === 0))
  })

  test('a name is taken as soon as the call has returned', async (t) => {
    const manager = open(t, slow(20))
    const made = manager.createMemoryPoolAsync({ name: 'p', initialSize: MiB })
    const { hint } = refuses(() => manager.createMemoryPool({ name: 'p', initialSize: MiB }), 'ERR_POOL_EXISTS')
    assert.match(hint, /createMemoryPoolAsync/)
    await rejects(manager.createMemoryPoolAsync({ name: 'p', initialSize: MiB }), 'ERR_POOL_EXISTS')
    assert.equal(manager.getMemoryPool('p'), undefined)
    const pool = await made
    manager.destroyMemoryPool(pool)
    // A refused creation gives the name back.
    const impossible = { name: 'p', initialSize: 64 * 1024 * MiB }
    await rejects(manager.createMemoryPoolAsync(impossible), 'ERR_OUT_OF_RANGE')
    manager.createMemoryPool({ name: 'p', initialSize: MiB })
  })

  test('a reset meanwhile frees no block that its caller does not have yet', async (t) => {
    const manager = withPool(t, slow(5))
    const pool = manager.getMemoryPool('grows')
    for (let round = 0; round < 10; round++) {
      const made = [
        pool.allocateAsync(MiB), pool.allocateAsync(MiB, { movable: true }), pool.allocateBufferAsync(MiB),
      ]
      let over = false
      const all = Promise.all(made).finally(() => (over = true))
      let resets = 0
      const seen = []
      for (const promise of made) void promise.then(() => seen.push(resets))
      while (!over && resets < 20) {
        await sleep(1)
        if (seen.length === 0) pool.reset()
        resets++
      }
      const [block, movable, buffer] = await all
      assert.deepEqual([block.freed, movable.freed, buffer.byteLength], [false, false, MiB])
      assert.equal(pool.stats().liveAllocations, 3)
      pool.reset()
      pool.trim()
    }
  })

  test('a pool that is destroyed meanwhile ends its allocations', async (t) => {
    const manager = withPool(t, slow(20))
    const pool = manager.getMemoryPool('grows')
    const pending = [
      pool.allocateAsync(MiB), pool.allocateAsync(MiB, { movable: true }), pool.allocateBufferAsync(MiB),
    ].map((promise) => rejects(promise, 'ERR_POOL_DESTROYED'))
    manager.destroyMemoryPool(pool, { force: true })
    await Promise.all(pending)
    assertNothingLeft(manager)
    await untilUnused(manager)
  })

  test('tags keep their numbers for allocations under way', async (t) => {
    const manager = open(t, slow(20))
    const pool = manager.createMemoryPool({ name: 'p', initialSize: 0, chunkSize: MiB, maxSize: 512 * MiB })
    const under = ['x', 'y', 'z'].map((tag) => pool.allocateAsync(MiB, { tag }))
    // More tags than the pool keeps numbers of.
    for (let i = 0; i < 600; i++) pool.allocate(64, { tag: `t${i}` }).free()
    for (const [at, block] of (await Promise.all(under)).entries()) {
      assert.equal(manager.describe(block).tag, 'xyz'[at])
      block.free()
    }
    assert.equal(manager.getMemoryUsage().tags.x?.used ?? 0, 0)
  })
})

test('many allocations of one pool at once, in any order', async (t) => {
  const manager = open(t, simulated ? slow(1) : {})
  const pool = await manager.createMemoryPoolAsync({ name: 'p', initialSize: MiB, maxSize: 256 * MiB })
  const sizes = Array.from({ length: 200 }, (_, at) => 1 + ((at * 7919) % (2 * MiB)))
  const blocks = await Promise.all(
    sizes.map((size, at) => pool.allocateAsync(size, { movable: at % 3 === 0, tag: `t${at % 5}` })),
  )
  assert.deepEqual(blocks.map((block) => block.size), sizes)
  assert.equal(new Set(blocks.map((block) => block.address)).size, 200)
  for (const block of blocks) block.free()
  assert.equal(pool.stats().liveAllocations, 0)
  manager.destroyMemoryPool(pool)
  assertNothingLeft(manager)
})

for (const verb of ['create', 'inference', 'pool', 'adopt']) {
  test(`at a limit, dropped buffers are collected before ${verb} is refused`, () => {
    const { result } = runChild('async-at-the-limit.mjs', { args: [backend, device ?? '', verb] })
    assert.deepEqual(result, { refused: verb === 'pool' ? 'ERR_POOL_EXHAUSTED' : 'ERR_MEMORY_LIMIT', allocated: 20 })
  })
}

describe('disposeAsync', () => {
  test('detaches every buffer, and is the same end for each caller', async (t) => {
    const manager = open(t, { slabs: {} })
    const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB })
    const buffers = Array.from({ length: 1000 }, () => manager.allocateNPUMemory(4096))
    buffers.push(manager.allocateSystemMemory(4096), pool.allocate(100).buffer, pool.allocateBuffer(100))
    const block = pool.allocate(100)
    const ended = manager.disposeAsync()
    assert.equal(manager.disposed, true)
    refuses(() => manager.allocateNPUMemory(1), 'ERR_MANAGER_DISPOSED')
    refuses(() => pool.allocate(1), 'ERR_POOL_DESTROYED')
    assert.equal(block.freed, true)
    refuses(() => block.free(), 'ERR_BUFFER_FREED')
    await Promise.all([ended, manager.disposeAsync(), manager[Symbol.asyncDispose]?.()])
    assert.ok(buffers.every((buffer) => buffer.byteLength === 0))
    await manager.disposeAsync()
    manager.dispose()
  })

  test('a dispose meanwhile detaches the rest at once', async (t) => {
    const manager = open(t, { slabs: {} })
    const buffers = Array.from({ length: 5000 }, () => manager.allocateNPUMemory(4096))
    const ended = manager.disposeAsync()
    manager.dispose()
    assert.ok(buffers.every((buffer) => buffer.byteLength === 0))
    await ended
  })

  test('waits for the driver without the event loop', { skip: needsSimulated }, async (t) => {
    const manager = open(t, slow(500))
    manager.allocateNPUMemory(MiB)
    const order = []
    const ended = manager.disposeAsync().then(() => order.push('disposed'))
    await nextTurn()
    order.push('turn')
    await ended
    assert.deepEqual(order, ['turn', 'disposed'])
  })

  test('an abort ends the wait, and the disposal goes on', { skip: needsSimulated }, async (t) => {
    const manager = open(t, slow(20))
    const buffer = manager.allocateNPUMemory(MiB)
    const controller = new AbortController()
    const waits = manager.disposeAsync({ signal: controller.signal })
    const reason = new Error('enough')
    controller.abort(reason)
    await assert.rejects(waits, (error) => error === reason)
    await assert.rejects(manager.disposeAsync({ signal: AbortSignal.abort(reason) }), (error) => error === reason)
    await manager.disposeAsync()
    assert.equal(buffer.byteLength, 0)
    const other = open(t)
    await assert.rejects(other.disposeAsync({ signal: AbortSignal.abort(reason) }), (error) => error === reason)
    assert.equal(other.disposed, true)
  })

  test('an operation that ends meanwhile does not fail', async (t) => {
    const manager = open(t)
    const buffer = manager.allocateNPUMemory(4096)
    let end
    const freed = manager.deallocateWhen(buffer, new Promise((resolve) => (end = resolve)))
    const ended = manager.disposeAsync()
    end()
    await Promise.all([freed, ended])
    assert.equal(buffer.byteLength, 0)
  })

  test('is what `await using` calls', { skip: Symbol.asyncDispose ? false : 'no Symbol.asyncDispose' }, async (t) => {
    let called = 0
    const { constructor } = open(t)
    class Watched extends constructor {
      async disposeAsync() {
        called++
        await super.disposeAsync()
      }
    }
    const manager = new Watched({ backend, device })
    await manager[Symbol.asyncDispose]()
    assert.deepEqual([called, manager.disposed], [1, true])
  })
})
