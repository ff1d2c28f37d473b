/** The messages of node:diagnostics_channel, and subscribers that call the manager. */

import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { createRequire } from 'node:module'
import { describe, test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'

import { closeDmaBuf, MemoryManager } from '../../../index.js'
import { backend, device, KiB, MiB, needsTransfer, open, refuses, runChild } from '../../support/helpers.mjs'

const native = createRequire(import.meta.url)('../../../src/js/core/binding.js')

/** Collects the messages until the test ends: `[channel, message without its manager]`. */
function listen(t, manager, ...names) {
  const heard = []
  for (const name of names.length > 0 ? names : ['allocate', 'free', 'fail', 'warning']) {
    const told = (message) => {
      if (message.manager !== manager) return
      const { manager: _, ...rest } = message
      heard.push([name, rest])
    }
    subscribe(`rkllm-memory:${name}`, told)
    t.after(() => unsubscribe(`rkllm-memory:${name}`, told))
  }
  return heard
}

const plain = { kind: 'npu', tag: null, pool: null, movable: false }

// Must be the first test: no other one has subscribed yet.
test('without subscribers no message is built', (t) => {
  let described = 0
  const { describe } = native
  native.describe = (...args) => (described++, describe(...args))
  t.after(() => (native.describe = describe))
  const manager = new MemoryManager({ backend, device })
  t.after(() => manager.dispose())
  manager.deallocate(manager.allocateNPUMemory(4096))
  assert.equal(described, 0)
  const heard = listen(t, manager, 'allocate')
  manager.deallocate(manager.allocateNPUMemory(4096))
  assert.deepEqual([described, heard.length], [1, 1])
})

describe('buffers', () => {
  test('of either kind, with their tags and ids, from allocation to free', async (t) => {
    const manager = open(t)
    const heard = listen(t, manager)
    const npu = manager.allocateNPUMemory(5000, { tag: 'a' })
    const system = manager.allocateSystemMemory(6000)
    const later = await manager.allocateNPUMemoryAsync(7000)
    const ids = [npu, system, later].map((buffer) => manager.describe(buffer).id)
    for (const buffer of [npu, system, new Uint8Array(later)]) manager.deallocate(buffer)
    const messages = [
      { ...plain, size: 5000, tag: 'a', id: ids[0] },
      { ...plain, size: 6000, kind: 'system', id: ids[1] },
      { ...plain, size: 7000, id: ids[2] },
    ]
    assert.deepEqual(heard, [
      ...messages.map((message) => ['allocate', message]),
      ...messages.map((message) => ['free', message]),
    ])
  })

  test('imported and adopted ones', (t) => {
    const manager = open(t)
    const heard = listen(t, manager, 'allocate', 'free')
    const buffer = manager.allocateNPUMemory(8 * KiB)
    const { fd } = manager.exportDmaBuf(buffer)
    const imported = manager.importDmaBuf(fd, { tag: 'twin' })
    closeDmaBuf(fd)
    const adopted = manager.adopt(manager.share(buffer))
    assert.deepEqual(
      heard.map(([, { size, tag }]) => [size, tag]),
      [
        [8 * KiB, null],
        [8 * KiB, 'twin'],
        [8 * KiB, null],
      ],
    )
    const ids = [buffer, imported, adopted].map((one) => manager.describe(one).id)
    assert.deepEqual(heard.map(([, { id }]) => id), ids)
    for (const one of [adopted, buffer, imported]) manager.deallocate(one)
    assert.deepEqual(
      heard.slice(3).map(([name, { id }]) => [name, id]),
      [
        ['free', ids[2]],
        ['free', ids[0]],
        ['free', ids[1]],
      ],
    )
  })

  test('a buffer is freed under the same id after transfer()', { skip: needsTransfer }, (t) => {
    const manager = open(t)
    const heard = listen(t, manager)
    const moved = manager.allocateNPUMemory(4096).transfer()
    manager.deallocate(moved)
    assert.deepEqual(heard.map(([name]) => name), ['allocate', 'free'])
    assert.deepEqual(heard[1][1], heard[0][1])
  })

  test('dispose publishes the frees of live buffers at its end', (t) => {
    const manager = open(t)
    const buffers = [manager.allocateNPUMemory(4096), manager.allocateSystemMemory(4096)]
    const heard = []
    const told = (message) =>
      heard.push([message.kind, message.manager.disposed, buffers.map((buffer) => buffer.byteLength)])
    subscribe('rkllm-memory:free', told)
    t.after(() => unsubscribe('rkllm-memory:free', told))
    manager.dispose()
    assert.deepEqual(heard, [['npu', true, [0, 0]], ['system', true, [0, 0]]])
  })
})

describe('pools', () => {
  const kv = { ...plain, pool: 'kv', kind: 'system' }
  const poolOf = (manager) => manager.createMemoryPool({ name: 'kv', kind: 'system', initialSize: MiB })

  test('blocks keep one id, whether their buffer was read or not', (t) => {
    const manager = open(t)
    const pool = poolOf(manager)
    const heard = listen(t, manager)
    const kinds = {
      hot: pool.allocate(1000),
      aligned: pool.allocate(1001, { alignment: 4096 }),
      tagged: pool.allocate(1002, { tag: 'x' }),
      movable: pool.allocate(1003, { movable: true, tag: 'y' }),
      read: pool.allocate(1004),
      movableRead: pool.allocate(1005, { movable: true }),
    }
    void [kinds.read.buffer, kinds.movableRead.buffer]
    const expected = Object.values(kinds).map(({ size, id, movable }) => ({ ...kv, size, id, movable }))
    expected[2].tag = 'x'
    expected[3].tag = 'y'
    assert.deepEqual(heard, expected.map((message) => ['allocate', message]))
    for (const block of Object.values(kinds)) block.free()
    assert.deepEqual(heard.slice(expected.length), expected.map((message) => ['free', message]))
  })

  test('a block is freed under its id by way of its buffer, too', (t) => {
    const manager = open(t)
    const pool = poolOf(manager)
    const [block, movable] = [pool.allocate(64), pool.allocate(64, { movable: true })]
    const ids = [block.id, movable.id]
    const heard = listen(t, manager, 'free')
    manager.deallocate(block.buffer)
    pool.deallocate(movable.buffer)
    assert.deepEqual(heard.map(([, { id, movable }]) => [id, movable]), [[ids[0], false], [ids[1], true]])
  })

  test('reset and destroy publish the frees of buffers at their end, but not of blocks without a buffer', (t) => {
    const manager = open(t)
    const pool = poolOf(manager)
    for (const end of [() => pool.reset(), () => manager.destroyMemoryPool(pool, { force: true })]) {
      pool.allocate(64)
      const buffer = pool.allocateBuffer(128, { tag: 'z' })
      const { id } = manager.describe(buffer)
      const heard = []
      const told = ({ manager: from, ...rest }) =>
        heard.push([rest, pool.destroyed || pool.stats().liveAllocations === 0])
      subscribe('rkllm-memory:free', told)
      end()
      unsubscribe('rkllm-memory:free', told)
      assert.deepEqual(heard, [[{ ...kv, size: 128, tag: 'z', id }, true]])
    }
  })
})

describe('refusals', () => {
  test('a limit, a pool and the device refuse: the message has the thrown error', async (t) => {
    const manager = open(t, { limits: { npu: { max: MiB } } })
    const pool = manager.createMemoryPool({ name: 'kv', kind: 'system', initialSize: 4096 })
    const heard = listen(t, manager)
    const errors = [
      refuses(() => manager.allocateNPUMemory(2 * MiB, { tag: 'a' }), 'ERR_MEMORY_LIMIT'),
      refuses(() => manager.allocateSystemMemory(2 ** 52), 'ERR_OUT_OF_MEMORY'),
      refuses(() => manager.createMemoryPool({ name: 'large', initialSize: 2 * MiB, tag: 'b' }), 'ERR_MEMORY_LIMIT'),
      refuses(() => pool.allocate(4097), 'ERR_OUT_OF_RANGE'),
      refuses(() => pool.allocateBuffer(5000, { tag: 'c' }), 'ERR_OUT_OF_RANGE'),
      refuses(() => pool.allocate(6000, { movable: true }), 'ERR_OUT_OF_RANGE'),
      await manager.allocateNPUMemoryAsync(3 * MiB).catch((error) => error),
    ]
    assert.deepEqual(heard.map(([name, { error, ...rest }]) => [name, rest]), [
      ['fail', { kind: 'npu', size: 2 * MiB, tag: 'a', pool: null }],
      ['fail', { kind: 'system', size: 2 ** 52, tag: null, pool: null }],
      ['fail', { kind: 'npu', size: 2 * MiB, tag: 'b', pool: 'large' }],
      ['fail', { kind: 'system', size: 4097, tag: null, pool: 'kv' }],
      ['fail', { kind: 'system', size: 5000, tag: 'c', pool: 'kv' }],
      ['fail', { kind: 'system', size: 6000, tag: null, pool: 'kv' }],
      ['fail', { kind: 'npu', size: 3 * MiB, tag: null, pool: null }],
    ])
    heard.forEach(([, { error }], i) => assert.equal(error, errors[i]))
  })

  test('invalid and aborted calls are no refusals', async (t) => {
    const manager = open(t)
    const pool = manager.createMemoryPool({ name: 'kv', initialSize: 64 * KiB })
    const heard = listen(t, manager)
    refuses(() => manager.allocateNPUMemory('1'), 'ERR_INVALID_ARG_TYPE')
    refuses(() => pool.allocate(1, { tga: 'x' }), 'ERR_INVALID_ARG_TYPE')
    await assert.rejects(manager.allocateNPUMemoryAsync(4096, { signal: AbortSignal.abort() }))
    const controller = new AbortController()
    const pending = manager.allocateNPUMemoryAsync(4096, { signal: controller.signal })
    controller.abort()
    await assert.rejects(pending, { name: 'AbortError' })
    const late = open(t)
    const [unheard, toolate] = [listen(t, late), late.allocateNPUMemoryAsync(4096)]
    late.dispose()
    await assert.rejects(toolate, { code: 'ERR_MANAGER_DISPOSED' })
    assert.deepEqual(unheard, [])
    const block = pool.allocate(64)
    block.free()
    heard.length = 0
    refuses(() => block.free(), 'ERR_BUFFER_FREED')
    assert.deepEqual(heard, [])
  })
})

test('warnings have the same figures as the event', async (t) => {
  const manager = open(t, { limits: { npu: { max: MiB, warnAt: [0.5] } } })
  const [heard, emitted] = [listen(t, manager, 'warning'), []]
  manager.on('warning', (warning) => emitted.push(['warning', warning]))
  manager.allocateNPUMemory(768 * KiB)
  await nextTurn()
  assert.equal(heard.length, 1)
  assert.deepEqual(heard, emitted)
  assert.equal(heard[0][1].scope, 'npu')
})

test('a subscriber may allocate and free, and end the manager', (t) => {
  const manager = open(t)
  const pool = manager.createMemoryPool({ name: 'kv', initialSize: MiB })
  let inside = false
  const told = (message) => {
    if (message.manager !== manager || inside) return
    inside = true
    const block = pool.allocate(100)
    pool.allocateBuffer(100)
    block.free()
    inside = false
  }
  for (const name of ['allocate', 'free']) subscribe(`rkllm-memory:${name}`, told)
  const blocks = Array.from({ length: 20 }, (_, i) => pool.allocate(64 + i))
  assert.equal(new Set(blocks.map(({ address }) => address)).size, 20, 'a block has the place of another one')
  blocks.forEach((block, i) => {
    assert.equal(block.buffer.byteLength, 64 + i)
    block.free()
  })
  assert.equal(pool.stats().liveAllocations, 40)
  for (const name of ['allocate', 'free']) unsubscribe(`rkllm-memory:${name}`, told)

  const end = () => manager.dispose()
  subscribe('rkllm-memory:allocate', end)
  const block = pool.allocate(64)
  unsubscribe('rkllm-memory:allocate', end)
  assert.equal(block.freed, true)
})

test('a subscriber that throws breaks no allocation: the runtime reports it', () => {
  const { result } = runChild('throwing-subscriber.mjs')
  assert.deepEqual(result, { lengths: [4096, 64], live: 0, reported: ['allocate', 'allocate', 'free', 'free'] })
})
