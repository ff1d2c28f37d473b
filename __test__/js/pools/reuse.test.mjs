/** When the bytes of a slice are used again, and what the next owner sees: `reuseAfterMs`, tags, `debug.delayReuse`. */

import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { describe, test } from 'node:test'

import { KiB, MiB, open, refuses } from '../../support/helpers.mjs'
import { all, fill } from '../../support/pools.mjs'

const turn = () => new Promise((resolve) => setImmediate(resolve))

function pooled(t, options = {}, managerOptions = {}) {
  const manager = open(t, managerOptions)
  const pool = manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: MiB, ...options })
  return { manager, pool }
}

describe('a slice whose ArrayBuffer was read', () => {
  test('waits after its free, and counts as waiting; another one is used again at once', (t) => {
    const { manager, pool } = pooled(t)
    const ways = {
      allocateBuffer: () => pool.allocateBuffer(4 * KiB),
      'a block': () => pool.allocate(4 * KiB),
      'a tagged block': () => pool.allocate(4 * KiB, { tag: 'x' }),
      'a movable block': () => pool.allocate(4 * KiB, { movable: true }),
    }
    for (const [way, make] of Object.entries(ways)) {
      const before = pool.stats().waiting
      const memory = make()
      const buffer = memory.buffer ?? memory
      const { address } = manager.describe(buffer)
      pool.deallocate(memory)
      const { waiting, allocated, requested, liveAllocations } = pool.stats()
      assert.deepEqual([waiting - before, allocated, requested, liveAllocations], [4 * KiB, 0, 0, 0], way)
      const next = pool.allocate(4 * KiB)
      assert.notEqual(next.address, address, way)
      const nextAddress = next.address
      next.free()
      const last = pool.allocate(4 * KiB)
      assert.equal(last.address, nextAddress, 'its buffer was not read')
      last.free()
    }
    const { waiting } = pool.stats()
    assert.equal(waiting, 16 * KiB)
    assert.equal(manager.getMemoryStats().waiting, waiting)
    assert.ok(manager.metrics().includes(`rkllm_memory_pool_waiting_bytes{pool="p",kind="system"} ${waiting}\n`))
  })

  test('waits in a slab too', (t) => {
    const manager = open(t, { slabs: {} })
    const buffer = manager.allocateNPUMemory(4 * KiB)
    const { address, dedicated } = manager.describe(buffer)
    assert.equal(dedicated, false)
    manager.deallocate(buffer)
    const { slabs } = manager.getNPUMemoryStats()
    assert.deepEqual([slabs.waiting, slabs.allocated], [4 * KiB, 0])
    assert.notEqual(manager.describe(manager.allocateNPUMemory(4 * KiB)).address, address)
  })

  test('does not wait with reuseAfterMs: 0', (t) => {
    const { manager, pool } = pooled(t, { reuseAfterMs: 0 }, { slabs: { reuseAfterMs: 0 } })
    for (const make of [() => pool.allocateBuffer(4 * KiB), () => manager.allocateNPUMemory(4 * KiB)]) {
      const addresses = [0, 1].map(() => {
        const buffer = make()
        const { address } = manager.describe(buffer)
        manager.deallocate(buffer)
        return address
      })
      assert.equal(addresses[0], addresses[1])
    }
    assert.equal(manager.getMemoryStats().waiting, 0)
  })

  test('is used again before the pool fails, the oldest first', (t) => {
    const { manager, pool } = pooled(t, { initialSize: 16 * KiB })
    const buffers = [0, 1, 2, 3].map(() => pool.allocateBuffer(4 * KiB))
    const addresses = buffers.map((buffer) => manager.describe(buffer).address)
    for (const at of [2, 0, 3]) pool.deallocate(buffers[at])
    const next = [0, 1, 2].map(() => pool.allocate(4 * KiB).address)
    assert.deepEqual(next, [2, 0, 3].map((at) => addresses[at]))
    refuses(() => pool.allocate(4 * KiB), 'ERR_POOL_EXHAUSTED')
  })

  test('is used again before the pool passes a limit', (t) => {
    const limits = { system: { max: 64 * KiB } }
    const { pool } = pooled(t, { initialSize: 0, chunkSize: 64 * KiB, maxSize: MiB }, { limits })
    for (let round = 0; round < 20; round++) pool.deallocate(pool.allocateBuffer(48 * KiB))
    assert.deepEqual([pool.stats().chunks, pool.stats().failedAllocations], [1, 0])
  })

  test('waits in slabs only as far as the limits allow', (t) => {
    const manager = open(t, { slabs: {}, limits: { npu: { max: 64 * KiB } } })
    for (let round = 0; round < 50; round++) {
      const buffer = manager.allocateNPUMemory(12 * KiB)
      const { used, slabs } = manager.getNPUMemoryStats()
      assert.ok(used + slabs.waiting <= 64 * KiB, `${used} in use and ${slabs.waiting} waiting`)
      manager.deallocate(buffer)
    }
  })

  test('waits until the time is over and the event loop has turned, and no longer', async (t) => {
    const { manager, pool } = pooled(t, { reuseAfterMs: 1 }, { slabs: { reuseAfterMs: 1 } })
    pool.deallocate(pool.allocateBuffer(4 * KiB))
    manager.deallocate(manager.allocateNPUMemory(4 * KiB))
    const until = Date.now() + 50
    while (Date.now() < until);
    assert.ok(manager.getMemoryStats().waiting >= 4 * KiB, 'the loop stood still')
    // Nothing is allocated: a timer ends the waits.
    while (manager.getMemoryStats().waiting > 0) await new Promise((resolve) => setTimeout(resolve, 20))
    const again = pool.allocateBuffer(4 * KiB)
    pool.deallocate(again)
  })

  test('waits until the event loop has polled I/O, where not each turn does', async (t) => {
    const { pool } = pooled(t, { reuseAfterMs: 1 })
    const server = net.createServer().listen(0, '127.0.0.1')
    t.after(() => server.close())
    await once(server, 'listening')
    const client = net.connect(server.address().port, '127.0.0.1')
    const [socket] = await once(server, 'connection')
    let arrived = false
    socket.on('data', () => (arrived = true))
    // The byte can be read when this is over.
    await new Promise((resolve) => client.write('x', resolve))
    pool.deallocate(pool.allocateBuffer(4 * KiB))
    while (pool.stats().waiting > 0) {
      await turn()
      const until = Date.now() + 5
      while (Date.now() < until);
      pool.allocate(4 * KiB).free()
    }
    client.destroy()
    socket.destroy()
    assert.ok(arrived, 'the slice was used again before an operation could make progress')
  })

  test('goes on waiting after a reset', (t) => {
    const { manager, pool } = pooled(t)
    const [freed, live] = [0, 1].map(() => pool.allocateBuffer(4 * KiB))
    const places = [freed, live].map((buffer) => manager.describe(buffer).address)
    pool.deallocate(freed)
    pool.reset()
    for (let count = 0; count < 100; count++) assert.ok(!places.includes(pool.allocate(4 * KiB).address))
    assert.equal(pool.stats().waiting, 8 * KiB)
  })

  test('keeps no chunk from trim: an operation in flight then reads zeros', (t) => {
    const { pool } = pooled(t, { initialSize: 0, chunkSize: 64 * KiB, maxSize: MiB })
    pool.deallocate(pool.allocateBuffer(4 * KiB))
    assert.equal(pool.trim(), 64 * KiB)
    assert.deepEqual([pool.stats().reserved, pool.stats().waiting], [0, 0])
  })
})

test('the client of a slow connection receives no bytes of the next owner', async (t) => {
  const { manager, pool } = pooled(t, { initialSize: 16 * MiB })
  const ways = {
    pool: () => pool.allocateBuffer(4 * MiB),
    block: () => pool.allocate(4 * MiB).buffer,
    movable: () => pool.allocate(4 * MiB, { movable: true }).buffer,
    slab: () => manager.allocateNPUMemory(MiB),
  }
  const server = http.createServer((request, response) => {
    const make = ways[request.url.slice(1)]
    const sent = make()
    fill(sent, 7)
    response.end(Buffer.from(sent))
    manager.deallocate(sent)
    fill(make(), 9)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  for (const way of Object.keys(ways)) {
    const request = http.get({ port: server.address().port, host: '127.0.0.1', path: `/${way}`, agent: false })
    const [response] = await once(request, 'response')
    for (let turns = 0; turns < 20; turns++) await turn()
    for await (const chunk of response) assert.ok(!chunk.includes(9), way)
    pool.reset()
  }
  server.close()
})

describe('bytes never cross tags', () => {
  const options = { reuseAfterMs: 0, initialSize: 64 * KiB }

  test('a slice whose last owner had another tag is cleared, and no tag is a tag of its own', (t) => {
    const { pool } = pooled(t, options)
    const ways = [
      (rest) => pool.allocateBuffer(4 * KiB, rest),
      (rest) => pool.allocate(4 * KiB, rest),
      (rest) => pool.allocate(4 * KiB, { ...rest, movable: true }),
    ]
    const shows = (way, rest) => {
      const memory = ways[way](rest)
      const buffer = memory.buffer ?? memory
      const [first] = new Uint8Array(buffer)
      assert.ok(all(buffer, first))
      fill(buffer, 7)
      pool.deallocate(memory)
      return first
    }
    const tags = [undefined, { tag: 'a' }, { tag: 'b' }, { tag: null }]
    let last
    for (let round = 0; round < 200; round++) {
      const options = tags[(round * 7 + (round >> 2)) % 4]
      const tag = options?.tag ?? null
      const expected = round === 0 || tag !== last ? 0 : 7
      assert.equal(shows(round % 3, options), expected, `round ${round}`)
      last = tag
    }
  })

  test('zeroed: true clears in any case, zeroed: false never', (t) => {
    const { pool } = pooled(t, options)
    for (const make of [
      (rest) => pool.allocateBuffer(4 * KiB, rest),
      (rest) => pool.allocate(4 * KiB, rest).buffer,
      (rest) => pool.allocate(4 * KiB, { ...rest, movable: true }).buffer,
    ]) {
      const show = (rest) => {
        const buffer = make(rest)
        const [first] = new Uint8Array(buffer)
        fill(buffer, 7)
        pool.deallocate(buffer)
        return first
      }
      show({ tag: 'a' })
      assert.equal(show({ tag: 'a', zeroed: true }), 0)
      assert.equal(show({ tag: 'b', zeroed: false }), 7)
      // They are the bytes of a and b: another request of b is cleared.
      assert.equal(show({ tag: 'b' }), 0)
      assert.equal(show({ tag: 'b' }), 7)
    }
  })
})

test('delayReuse poisons at once, and a reset does not shorten the delay', (t) => {
  const { manager, pool } = pooled(t, {}, { debug: { delayReuse: 8 } })
  const buffers = [0, 1].map(() => fill(pool.allocateBuffer(4 * KiB), 7).buffer)
  const places = buffers.map((buffer) => manager.describe(buffer).address)
  pool.deallocate(buffers[0])
  pool.reset()
  const next = Array.from({ length: 100 }, () => pool.allocate(4 * KiB, { zeroed: false }))
  assert.ok(next.every(({ address }) => !places.includes(address)))
  // The pool is full before long: then it has to take them, as they were poisoned.
  const rest = []
  for (;;) {
    try {
      rest.push(pool.allocate(4 * KiB, { zeroed: false }))
    } catch {
      break
    }
  }
  const taken = rest.filter(({ address }) => places.includes(address))
  assert.equal(taken.length, 2)
  assert.ok(taken.every(({ buffer }) => all(buffer, 0xdd)))
})

test('reuseAfterMs is validated', (t) => {
  const manager = open(t)
  const make = (options) => () => manager.createMemoryPool({ name: 'q', initialSize: MiB, ...options })
  for (const [value, code] of [
    [-1, 'ERR_OUT_OF_RANGE'],
    [NaN, 'ERR_OUT_OF_RANGE'],
    [Infinity, 'ERR_OUT_OF_RANGE'],
    [86_400_001, 'ERR_OUT_OF_RANGE'],
    ['1', 'ERR_INVALID_ARG_TYPE'],
    [null, 'ERR_INVALID_ARG_TYPE'],
    [1n, 'ERR_INVALID_ARG_TYPE'],
  ]) {
    refuses(make({ reuseAfterMs: value }), code, `${value}`)
    refuses(() => open(t, { slabs: { reuseAfterMs: value } }), code, `${value}`)
  }
  refuses(make({ reuseAfterMS: 1 }), 'ERR_INVALID_ARG_TYPE')
  make({ reuseAfterMs: 0.5 })()
})
