/** The ends of pools: reset, trim, destroy, dispose; and pools and blocks in `inspect`. */

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { inspect } from 'node:util'

import { MemoryBlock, MemoryManager, MemoryPool } from '../../../index.js'
import { assertNothingLeft, backend, device, KiB, MiB, needsSimulated, refuses } from '../../support/helpers.mjs'
import { KINDS, pooled, sane } from '../../support/pools.mjs'

describe('ends', () => {
  test('reset: views are detached, blocks are stale, the memory stays', (t) => {
    for (const kind of KINDS) {
      for (const layout of [{}, { blockSize: 4096 }]) {
        const { manager, pool } = pooled(t, { kind, maxSize: 4 * MiB, reuseAfterMs: 0, ...layout })
        const [bare, shown, pinned] = [pool.allocate(100), pool.allocate(100), pool.allocate(100)]
        const tagged = pool.allocate(100, { tag: 'x' })
        const views = [shown.buffer, tagged.buffer, pool.allocateBuffer(100)].map((buffer) =>
          new Uint8Array(buffer).fill(1),
        )
        const elsewhere = [
          manager.allocateNPUMemory(100),
          manager.createMemoryPool({ name: 'q', initialSize: MiB }).allocateBuffer(100),
        ]
        pinned.pin()
        pool.reset()
        assert.deepEqual(views.map(({ length }) => length), [0, 0, 0])
        for (const block of [bare, shown, pinned, tagged]) {
          assert.equal(block.freed, true)
          refuses(() => block.free(), 'ERR_BUFFER_FREED')
          refuses(() => pool.deallocate(block), 'ERR_BUFFER_FREED')
          refuses(() => block.pin(), 'ERR_BUFFER_FREED')
        }
        refuses(() => bare.buffer, 'ERR_BUFFER_FREED')
        assert.ok(elsewhere.every(({ byteLength }) => byteLength === 100), 'what is of others stays')
        const { liveAllocations, allocated, requested, reserved, largestFree, totalAllocations } = sane(
          pool.stats(),
          { fixed: layout.blockSize !== undefined },
        )
        assert.deepEqual(
          { liveAllocations, allocated, requested, reserved, totalAllocations },
          { liveAllocations: 0, allocated: 0, requested: 0, reserved: MiB, totalAllocations: 5 },
        )
        assert.equal(largestFree, layout.blockSize ?? MiB)
        const next = pool.allocate(100)
        refuses(() => bare.free(), 'ERR_BUFFER_FREED', 'not another owner\'s')
        next.free()
        pool.reset()
      }
    }
  })

  test('trim frees empty chunks, down to the initial size', (t) => {
    const { manager, pool } = pooled(t, { initialSize: 256 * KiB, chunkSize: 512 * KiB, maxSize: 8 * MiB })
    assert.equal(pool.trim(), 0, 'nothing to give')
    const blocks = Array.from({ length: 9 }, () => pool.allocate(256 * KiB))
    assert.deepEqual([pool.stats().chunks, pool.stats().reserved], [5, 256 * KiB + 4 * 512 * KiB])
    assert.equal(pool.trim(), 0, 'they are in use')
    blocks.forEach((block) => block.free())
    const { reserved } = pool.stats()
    assert.ok(reserved > 256 * KiB && reserved <= 256 * KiB + 512 * KiB, 'one empty chunk waits for the next request')
    assert.equal(pool.trim(), reserved - 256 * KiB)
    assert.deepEqual(
      [pool.stats().chunks, pool.stats().reserved, manager.getMemoryStats().npuUsed],
      [1, 256 * KiB, 256 * KiB],
    )
    assert.equal(pool.trim(), 0)
  })

  test('trim reaches the initial size with any chunk used last', (t) => {
    for (const last of [0, 1, 2]) {
      const { pool } = pooled(t, { initialSize: 64 * KiB, chunkSize: 64 * KiB, maxSize: 8 * MiB })
      const blocks = [pool.allocate(64 * KiB), pool.allocate(MiB), pool.allocate(64 * KiB)]
      const [kept] = blocks.splice(last, 1)
      blocks.forEach((block) => block.free())
      kept.free()
      pool.trim()
      assert.equal(pool.stats().reserved, 64 * KiB, `${last}`)
    }
  })

  test('a load that rises and falls does not call the driver each time', { skip: needsSimulated }, (t) => {
    const { manager, pool } = pooled(t, { initialSize: 64 * KiB, chunkSize: 64 * KiB, maxSize: MiB })
    const kept = pool.allocate(64 * KiB)
    const addresses = new Set()
    for (let i = 0; i < 50; i++) {
      const block = pool.allocate(1000)
      addresses.add(block.address)
      block.free()
      assert.equal(manager.getNPUMemoryStats().objects, 2)
    }
    assert.equal(addresses.size, 1)
    kept.free()
  })

  test('destroy: refused while blocks live, unless forced', (t) => {
    for (const by of ['object', 'name']) {
      const { manager, pool } = pooled(t)
      const which = by === 'name' ? 'p' : pool
      const [bare, shown] = [pool.allocate(100), pool.allocate(100)]
      const view = new Uint8Array(shown.buffer)
      for (const options of [undefined, {}, { force: false }]) {
        const error = refuses(() => manager.destroyMemoryPool(which, options), 'ERR_POOL_BUSY')
        assert.match(error.message, /2 allocations.*"p"/)
        assert.match(error.hint, /force/)
      }
      assert.deepEqual([pool.destroyed, view.length], [false, 100])
      manager.destroyMemoryPool(which, { force: true })
      assert.deepEqual([pool.destroyed, view.length, bare.freed, shown.freed], [true, 0, true, true])
      for (const block of [bare, shown]) refuses(() => block.free(), 'ERR_BUFFER_FREED')
      refuses(() => bare.buffer, 'ERR_BUFFER_FREED')
      assert.equal(manager.getMemoryPool('p'), undefined)
      assert.deepEqual(manager.getMemoryUsage().pools, [])
      assert.deepEqual([manager.getMemoryStats().poolReserved, manager.getNPUMemoryStats().objects], [0, 0])
      assertNothingLeft(manager)
    }
  })

  test('a destroyed pool refuses every verb', (t) => {
    const { manager, pool } = pooled(t)
    const block = pool.allocate(100)
    manager.destroyMemoryPool(pool, { force: true })
    const verbs = [
      () => pool.allocate(1),
      () => pool.allocate('nonsense'),
      () => pool.allocate(1, { tag: 'x' }),
      () => pool.allocateBuffer(1),
      () => pool.deallocate(block),
      () => pool.deallocate(new ArrayBuffer(1)),
      () => pool.reset(),
      () => pool.trim(),
      () => pool.stats(),
      () => manager.allocateFromPool(pool, 1),
      () => manager.destroyMemoryPool(pool),
      () => manager.destroyMemoryPool(pool, { force: true }),
    ]
    for (const verb of verbs) refuses(verb, 'ERR_POOL_DESTROYED', String(verb))
    for (const verb of [() => manager.allocateFromPool('p', 1), () => manager.destroyMemoryPool('p')])
      refuses(verb, 'ERR_POOL_UNKNOWN')
    assert.deepEqual([pool.name, pool.kind, pool.destroyed], ['p', 'npu', true])
    pool[Symbol.dispose]?.()
  })

  test('Symbol.dispose of a pool destroys it with its live blocks', { skip: Symbol.dispose === undefined }, (t) => {
    const { manager, pool } = pooled(t)
    const { buffer } = pool.allocate(100)
    pool[Symbol.dispose]()
    assert.deepEqual([pool.destroyed, buffer.byteLength], [true, 0])
    pool[Symbol.dispose]()
    assertNothingLeft(manager)
  })

  test('dispose of the manager takes pools and blocks with it', () => {
    const manager = new MemoryManager({ backend, device })
    const pools = KINDS.map((kind) =>
      manager.createMemoryPool({ name: kind, kind, initialSize: MiB, maxSize: 8 * MiB }),
    )
    const blocks = pools.flatMap((pool) => [pool.allocate(100), pool.allocate(2 * MiB)])
    const buffers = [blocks[0].buffer, blocks[3].buffer, pools[0].allocateBuffer(100), manager.allocateNPUMemory(100)]
    manager.dispose()
    assert.deepEqual(buffers.map(({ byteLength }) => byteLength), [0, 0, 0, 0])
    for (const pool of pools) {
      assert.equal(pool.destroyed, true)
      for (const verb of [() => pool.allocate(1), () => pool.stats(), () => pool.trim(), () => pool.reset()])
        refuses(verb, 'ERR_POOL_DESTROYED')
      pool[Symbol.dispose]?.()
    }
    for (const block of blocks) {
      assert.equal(block.freed, true)
      refuses(() => block.free(), 'ERR_BUFFER_FREED')
      block[Symbol.dispose]?.()
    }
    refuses(() => blocks[1].buffer, 'ERR_BUFFER_FREED')
    for (const verb of ['createMemoryPool', 'getMemoryPool', 'allocateFromPool', 'destroyMemoryPool']) {
      for (const args of [[], ['npu'], [pools[0], 1], [{ name: 'x', initialSize: 1 }]]) {
        refuses(() => manager[verb](...args), 'ERR_MANAGER_DISPOSED')
      }
    }
  })
})

test('inspect', (t) => {
  const { manager, pool } = pooled(t, { name: 'kv' })
  const block = pool.allocate(256 * KiB)
  assert.equal(inspect(pool), "MemoryPool 'kv' (npu) { 256 KiB of 1 MiB in 1 chunk, 1 live, 0 % fragmented }")
  assert.match(inspect(block), /^MemoryBlock \(256 KiB, at 0x[0-9a-f]+\)$/)
  assert.match(inspect({ a: [pool, block] }, { colors: true, depth: 5 }), /\x1b\[/)
  pool.reset()
  assert.equal(inspect(block), 'MemoryBlock (256 KiB, freed)')
  manager.destroyMemoryPool(pool)
  assert.equal(inspect(pool), "MemoryPool 'kv' (npu, destroyed)")
  for (const value of [
    MemoryPool, MemoryBlock, MemoryPool.prototype, MemoryBlock.prototype, Object.create(pool), Object.create(block),
  ]) {
    assert.equal(typeof inspect(value), 'string')
  }
})
