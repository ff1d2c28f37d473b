/** share and adopt: several holders of one memory, in one thread and in several. */

import assert from 'node:assert/strict'
import { once } from 'node:events'
import test from 'node:test'
import { Worker } from 'node:worker_threads'

import {
  assertNothingLeft, fdsAtMost, KiB, MiB, needsTransfer, notOn, open as openDevice, openFds, runtime, turnsUntil,
} from '../../support/helpers.mjs'

const open = (t, options) => openDevice(t, { slabs: {}, ...options })

/** Returns the distinct byte values of a buffer. */
function bytes(buffer) {
  const all = Buffer.from(buffer)
  // Fast path: a million iterator steps are slow on an emulated machine.
  return all.equals(Buffer.alloc(all.length, all[0])) ? [all[0]] : [...new Set(all)]
}
const fill = (buffer, value) => void new Uint8Array(buffer).fill(value)

const KINDS = {
  'a slab slice': (manager) => manager.allocateNPUMemory(16 * KiB, { tag: 'kv' }),
  'a kernel object': (manager) => manager.allocateNPUMemory(16 * KiB, { tag: 'kv', dedicated: true }),
  'system memory': (manager) => manager.allocateSystemMemory(16 * KiB, { tag: 'kv' }),
  'a slice of an NPU pool': (manager) => slice(manager, 'npu'),
  'a slice of a system pool': (manager) => slice(manager, 'system'),
}

function slice(manager, kind) {
  const pool = manager.createMemoryPool({ name: kind, kind, initialSize: MiB })
  return pool.allocateBuffer(16 * KiB, { tag: 'kv' })
}

/** Collects garbage and runs finalizers until `done()`. */
async function collected(manager, done) {
  for (let i = 0; i < 20; i++) {
    manager.optimizeMemory()
    if (await turnsUntil(done, 20)) return true
  }
  return false
}

class Thread {
  constructor() {
    this.worker = new Worker(new URL('../../support/child/sharing-worker.mjs', import.meta.url))
  }

  async ask(verb, rest) {
    this.worker.postMessage({ verb, ...rest })
    const [{ result, code, message }] = await once(this.worker, 'message')
    if (code !== undefined) throw Object.assign(new Error(message), { code })
    return result
  }

  async end(how) {
    if (how === 'terminate') return void (await this.worker.terminate())
    this.worker.postMessage({ verb: 'exit' })
    await once(this.worker, 'exit')
  }
}

for (const [name, allocate] of Object.entries(KINDS)) {
  test(`${name}: the same bytes until the last holder has let go, in any order`, async (t) => {
    for (const order of [[0, 1, 2], [2, 1, 0], [1, 0, 2]]) {
      const [mine, yours] = [open(t), open(t)]
      const first = allocate(mine)
      assert.equal(mine.describe(first).shared, false)
      const token = mine.share(first)
      assert.ok(Object.isFrozen(token))
      assert.deepEqual([typeof token.token, token.size], ['string', 16 * KiB])
      assert.deepEqual(mine.share(first), token, 'the same memory has the same name')
      const holders = [[mine, first], [mine, mine.adopt(token)], [yours, yours.adopt(structuredClone(token))]]
      fill(first, 7)
      for (const [manager, buffer] of holders) {
        const { shared, size, tag, address } = manager.describe(buffer)
        assert.deepEqual([shared, size, tag, address], [true, 16 * KiB, 'kv', mine.describe(first).address])
        assert.deepEqual(bytes(buffer), [7])
      }
      assert.deepEqual([mine.getMemoryStats().liveAllocations, yours.getMemoryStats().liveAllocations], [2, 1])
      for (const [step, index] of order.entries()) {
        const [manager, buffer] = holders[index]
        manager.deallocate(buffer)
        assert.equal(buffer.byteLength, 0)
        assert.throws(() => manager.deallocate(buffer), { code: 'ERR_BUFFER_FREED' })
        for (const rest of order.slice(step + 1)) assert.deepEqual(bytes(holders[rest][1]), [7])
      }
      assertNothingLeft(yours)
      assert.throws(() => yours.adopt(token), { code: 'ERR_BUFFER_FREED' })
      // A slice's bytes are reused after the finalizers of all holders.
      const pools = ['npu', 'system'].map((name) => mine.getMemoryPool(name)).filter(Boolean)
      assert.ok(await collected(mine, () => pools.every((pool) => pool.stats().liveAllocations === 0)))
      for (const pool of pools) mine.destroyMemoryPool(pool)
      assertNothingLeft(mine)
    }
  })
}

test('the bytes of a shared slice are not reused while a holder lives', async (t) => {
  const [mine, yours] = [open(t), open(t)]
  const first = mine.allocateNPUMemory(4 * KiB)
  const held = yours.adopt(mine.share(first))
  fill(held, 9)
  mine.deallocate(first)
  const others = Array.from({ length: 200 }, () => mine.allocateNPUMemory(4 * KiB))
  for (const other of others) fill(other, 1)
  await collected(mine, () => false)
  assert.deepEqual(bytes(held), [9])
  for (const other of others) mine.deallocate(other)
  yours.deallocate(held)
})

test('memory outlives the manager and the pool that it came from', async (t) => {
  const ends = [
    (manager) => manager.dispose(),
    (manager) => manager.getMemoryPool('npu')?.reset(),
    (manager) => manager.getMemoryPool('npu') && manager.destroyMemoryPool('npu', { force: true }),
  ]
  for (const end of ends) {
    for (const name of ['a slab slice', 'a kernel object', 'a slice of an NPU pool']) {
      const fds = openFds()
      const [mine, yours] = [open(t), open(t)]
      const held = yours.adopt(mine.share(KINDS[name](mine)))
      fill(held, 5)
      end(mine)
      // The new buffer does not reuse the shared memory.
      if (!mine.disposed && mine.getMemoryPool('npu')) fill(mine.getMemoryPool('npu').allocateBuffer(MiB), 1)
      assert.deepEqual(bytes(held), [5], `${name}, ${end}`)
      yours.syncToDevice(held)
      yours.deallocate(held)
      yours.optimizeMemory()
      mine.dispose()
      yours.dispose()
      await turnsUntil(() => openFds() <= fds)
      assert.ok(fdsAtMost(fds) <= fds, `${name}, ${end}: ${fds} → ${openFds()}`)
    }
  }
})

test('invalid tokens are refused, and limits apply', (t) => {
  const manager = open(t, { limits: { npu: { max: 2 * MiB } } })
  const buffer = manager.allocateNPUMemory(1.5 * MiB)
  const token = manager.share(buffer)
  assert.throws(() => manager.adopt(token), { code: 'ERR_MEMORY_LIMIT' })
  for (const bad of [undefined, null, 'token', 5, {}, { token: 5 }, []]) {
    assert.throws(() => manager.adopt(bad), { code: 'ERR_INVALID_ARG_TYPE' })
  }
  for (const bad of ['', 'x', ':', `${token.token}0`, token.token.replace('rkllm', 'rkllm2'), `${token.token}\0`]) {
    assert.throws(() => manager.adopt({ token: bad, size: 1 }), { code: /^ERR_(UNKNOWN_BUFFER|BUFFER_FREED)$/ }, bad)
  }
  assert.throws(() => manager.share(new ArrayBuffer(8)), { code: 'ERR_UNKNOWN_BUFFER' })
  manager.deallocate(buffer)
  assert.throws(() => manager.share(buffer), { code: 'ERR_BUFFER_FREED' })
  assert.throws(() => manager.adopt(token), { code: 'ERR_BUFFER_FREED' })
  assertNothingLeft(manager)
  manager.dispose()
  assert.throws(() => manager.adopt(token), { code: 'ERR_MANAGER_DISPOSED' })
  assert.throws(() => manager.share(buffer), { code: 'ERR_MANAGER_DISPOSED' })
})

test('a movable block is not shared', (t) => {
  const manager = open(t)
  const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB })
  const block = pool.allocate(4 * KiB, { movable: true })
  assert.throws(() => manager.share(block.buffer), { code: 'ERR_UNSUPPORTED', hint: /movable/ })
  block.free()
  assert.equal(manager.getMemoryStats().liveAllocations, 0)
})

test(
  'of several buffers at one address each is freed by itself, moved ones too',
  { skip: needsTransfer },
  async (t) => {
    const manager = open(t)
    const first = manager.allocateNPUMemory(2 * MiB)
    fill(first, 3)
    const token = manager.share(first)
    const views = Array.from({ length: 6 }, () => manager.adopt(token))
    const moved = views.map((view) => view.transfer())
    for (const [i, view] of moved.entries()) {
      manager.deallocate(view)
      assert.throws(() => manager.deallocate(view), { code: 'ERR_BUFFER_FREED' })
      for (const rest of [first, ...moved.slice(i + 1)]) assert.deepEqual(bytes(rest), [3])
      // The finalizer of a buffer names its memory.
      assert.ok(await collected(manager, () => manager.getMemoryStats().liveAllocations === 6 - i))
    }
    for (const view of views) assert.throws(() => manager.deallocate(view), { code: 'ERR_BUFFER_FREED' })
    const last = manager.adopt(token).transfer()
    manager.deallocate(first)
    await collected(manager, () => false)
    assert.deepEqual(bytes(last), [3])
    manager.deallocate(last)
    assert.ok(await collected(manager, () => manager.getMemoryStats().liveAllocations === 0))
    assertNothingLeft(manager)
  },
)

test(
  'what is dropped and collected is let go of',
  { skip: notOn({ bun: 'its collector keeps what a stack word looks like' }) },
  async (t) => {
    const [mine, yours] = [open(t), open(t)]
    const held = mine.allocateNPUMemory(2 * MiB)
    fill(held, 4)
    const drop = () => void yours.adopt(mine.share(held))
    for (let i = 0; i < 20; i++) drop()
    assert.ok(await collected(yours, () => yours.getMemoryStats().liveAllocations <= 1))
    assert.deepEqual(bytes(held), [4])
  },
)

for (const how of ['exit', 'terminate']) {
  for (const options of [{}, { dedicated: true }]) {
    const what = options.dedicated ? 'kernel objects' : 'slab slices'
    test(`threads that hold ${what} and end (${how}), in any order`, async (t) => {
      const manager = open(t)
      // A runtime's first thread opens descriptors that stay open.
      const first = new Thread()
      await first.ask('stats')
      await first.end(how)
      const fds = openFds()
      // Allocated by this thread, held by another.
      const here = manager.allocateNPUMemory(64 * KiB, options)
      fill(here, 1)
      const one = new Thread()
      await one.ask('adopt', { token: manager.share(here) })
      assert.deepEqual(await one.ask('read', { buffer: 0 }), [1])
      await one.ask('write', { buffer: 0, fill: 2 })
      assert.deepEqual(bytes(here), [2])
      manager.deallocate(here)
      assert.deepEqual(await one.ask('read', { buffer: 0 }), [2])
      // Allocated by another thread, held by this and by a third.
      const token = await one.ask('allocate', { kind: 'npu', size: 64 * KiB, fill: 3, options })
      const two = new Thread()
      await two.ask('adopt', { token })
      const held = manager.adopt(token)
      await one.end(how)
      assert.deepEqual(bytes(held), [3])
      fill(held, 4)
      assert.deepEqual(await two.ask('read', { buffer: 0 }), [4])
      await two.ask('free', { buffer: 0 })
      assert.deepEqual(bytes(held), [4])
      assert.equal((await two.ask('stats')).liveAllocations, 0)
      await two.end(how)
      assert.deepEqual(bytes(held), [4])
      manager.deallocate(held)
      assertNothingLeft(manager)
      assert.ok(await collected(manager, () => manager.getNPUMemoryStats().objects === 0))
      assert.deepEqual(manager.getNPUMemoryStats().slabs.lost, { slices: 0, bytes: 0 })
      await turnsUntil(() => openFds() <= fds + 1)
      assert.ok(fdsAtMost(fds + 1) <= fds + 1, `${fds} → ${openFds()}`)
    })
  }
}

for (const how of ['exit', 'terminate']) {
  test(`a pool has the slices again that a thread held when it ended (${how})`, async (t) => {
    const manager = open(t)
    const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB, maxSize: MiB })
    for (let round = 0; round < 3; round++) {
      // More than half of the pool: the next round needs the place of this one.
      const held = [pool.allocateBuffer(600 * KiB), pool.allocateBuffer(64 * KiB)]
      const thread = new Thread()
      for (const buffer of held) await thread.ask('adopt', { token: manager.share(buffer) })
      assert.equal(await thread.ask('adopt', { token: manager.share(held[0]) }), 2, 'twice')
      // Freed here before, and after, the thread's end.
      manager.deallocate(held[0])
      await thread.end(how)
      manager.deallocate(held[1])
      assert.ok(await collected(manager, () => pool.stats().liveAllocations === 0))
    }
    assert.deepEqual(pool.stats().lost, { slices: 0, bytes: 0 })
  })

  test(
    `a slice whose ArrayBuffer left the thread that ended is not used again, and counted (${how})`,
    { skip: needsTransfer },
    async (t) => {
      const manager = open(t)
      const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB, maxSize: MiB })
      const buffer = pool.allocateBuffer(64 * KiB)
      const thread = new Thread()
      const adopted = await thread.ask('adopt', { token: manager.share(buffer) })
      fill(buffer, 7)
      thread.worker.postMessage({ verb: 'move', buffer: adopted })
      const [{ moved }] = await once(thread.worker, 'message')
      await thread.end(how)
      manager.deallocate(buffer)
      await collected(manager, () => false)
      assert.deepEqual(bytes(moved), [7])
      fill(pool.allocateBuffer(800 * KiB), 1)
      fill(moved, 8)
      assert.deepEqual(bytes(moved), [8])
      // Deno finalizes for the last holder, so it loses nothing.
      const lost = runtime === 'deno' ? { slices: 0, bytes: 0 } : { slices: 1, bytes: 64 * KiB }
      assert.deepEqual([pool.stats().lost, pool.stats().liveAllocations], [lost, 2])
    },
  )
}
