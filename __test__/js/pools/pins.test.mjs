/** Pins: a pinned block ends with its pool or manager, and with nothing else. */

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { unpinDropped } from '../../../index.js'
import { KiB, MiB, open, refuses, runChild } from '../../support/helpers.mjs'
import { pooled } from '../../support/pools.mjs'

const CLASSES = { plain: undefined, tag: { tag: 't' }, zeroed: { zeroed: true }, movable: { movable: true } }

test('the collector, transfers, streams and the end of a thread leave a pinned block as it is', () => {
  assert.deepEqual(runChild('pinned.mjs', { flags: ['--expose-gc'] }).result, { wrong: [] })
})

for (const [name, options] of Object.entries(CLASSES)) {
  describe(`a ${name} block`, () => {
    test('refuses its free while it is pinned, with and without a buffer', (t) => {
      const { manager, pool } = pooled(t)
      for (const read of [false, true]) {
        const block = pool.allocate(100, options)
        if (read) new Uint8Array(block.buffer).fill(1)
        block.pin()
        block.pin()
        refuses(() => block.free(), 'ERR_BUFFER_BUSY')
        refuses(() => pool.deallocate(block), 'ERR_BUFFER_BUSY')
        if (read) refuses(() => manager.deallocate(block.buffer), 'ERR_BUFFER_BUSY')
        block.unpin()
        assert.match(refuses(() => block.free(), 'ERR_BUFFER_BUSY').message, /pinned 1 times/)
        block.unpin()
        refuses(() => block.unpin(), 'ERR_OUT_OF_RANGE')
        block.free()
        refuses(() => block.unpin(), 'ERR_BUFFER_FREED')
      }
      assert.equal(pool.stats().liveAllocations, 0)
    })

    test('shows neither its buffer nor its addresses once it was freed, in whatever way', (t) => {
      const ends = {
        free: (block) => block.free(),
        deallocate: (block, pool, manager) => manager.deallocate(block.buffer),
        reset: (_, pool) => pool.reset(),
        destroy: (_, pool, manager) => manager.destroyMemoryPool(pool, { force: true }),
      }
      for (const [how, end] of Object.entries(ends)) {
        for (const read of [false, true]) {
          const { manager, pool } = pooled(t)
          const block = pool.allocate(100, options)
          if (read) assert.equal(block.buffer.byteLength, 100)
          assert.equal(block.address > 0n, true)
          end(block, pool, manager)
          for (const property of ['buffer', 'address', 'deviceAddress']) {
            refuses(() => block[property], 'ERR_BUFFER_FREED', `${property} after ${how}`)
          }
          assert.deepEqual([block.freed, block.size], [true, 100])
        }
      }
    })

    test('ends with a reset, although it is pinned and has a buffer', (t) => {
      const { pool } = pooled(t)
      const block = pool.allocate(100, options)
      const { buffer } = block
      block.pin()
      pool.reset()
      assert.deepEqual([block.freed, buffer.byteLength, pool.stats().liveAllocations], [true, 0, 0])
      assert.equal(pool.stats().chunks, 1, 'the pool keeps its memory')
    })
  })
}

describe('blocks with a tag, or zeroed', () => {
  test('make no ArrayBuffer until it is read, and are counted under their tag', (t) => {
    const { manager, pool } = pooled(t)
    const counters = () => manager.getMemoryUsage().tags.kv
    const blocks = [100, 200].map((size) => pool.allocate(size, { tag: 'kv' }))
    assert.deepEqual([counters().used, counters().liveAllocations], [128 + 256, 2])
    assert.equal(manager.takeSnapshot().buffers.length, 0)
    assert.deepEqual(manager.takeSnapshot().pools[0].chunkMaps[0].blocks.map(({ tag }) => tag), ['kv', 'kv', null])
    assert.equal(manager.describe(blocks[0].buffer).tag, 'kv')
    assert.deepEqual([counters().used, counters().liveAllocations], [128 + 256, 2], 'counted once')
    blocks.forEach((block) => block.free())
    const { used, peak, liveAllocations, totalAllocations, totalFrees } = counters()
    assert.deepEqual([used, peak, liveAllocations, totalAllocations, totalFrees], [0, 128 + 256, 0, 2, 2])
    pool.allocate(100, { tag: 'kv' })
    pool.reset()
    assert.equal(counters().used, 0)
    pool.allocate(100, { tag: 'kv' })
    manager.destroyMemoryPool(pool, { force: true })
    assert.deepEqual([counters().used, counters().liveAllocations], [0, 0])
  })

  test('are zeroed where the pool was used before', (t) => {
    for (const kind of ['npu', 'system']) {
      const manager = open(t)
      const pool = manager.createMemoryPool({ name: 'p', kind, initialSize: 64 * KiB })
      const dirty = pool.allocate(64 * KiB)
      new Uint8Array(dirty.buffer).fill(7)
      dirty.free()
      const block = pool.allocate(10_000, { zeroed: true })
      assert.ok(new Uint8Array(block.buffer).every((byte) => byte === 0))
      assert.ok(new Uint8Array(pool.allocate(10_000).buffer).every((byte) => byte === 7))
    }
  })

  test("a tag's limit refuses the block that exceeds it and changes nothing", (t) => {
    const { manager, pool } = pooled(t, { initialSize: 4 * KiB, maxSize: MiB })
    manager.setMemoryLimits({ tags: { kv: { max: KiB } } })
    const block = pool.allocate(512, { tag: 'kv' })
    const before = pool.stats()
    const error = refuses(() => pool.allocate(1000, { tag: 'kv' }), 'ERR_MEMORY_LIMIT')
    assert.deepEqual([error.scope, error.limit, error.available], ['tag:kv', KiB, 512])
    // Too large for the present chunks: the pool does not grow for a request that is refused.
    refuses(() => pool.allocate(64 * KiB, { tag: 'kv' }), 'ERR_MEMORY_LIMIT')
    const { failedAllocations, ...after } = pool.stats()
    assert.deepEqual({ ...after, failedAllocations: 0 }, before)
    assert.ok(failedAllocations >= 2)
    assert.equal(manager.getMemoryUsage().tags.kv.failedAllocations, failedAllocations)
    pool.allocate(512, { tag: 'kv' }).free()
    block.free()
  })

  test('a tag for each request leaks neither numbers nor accounts', (t) => {
    const { manager, pool } = pooled(t)
    const kept = pool.allocate(64, { tag: 'kept' })
    for (let i = 0; i < 3000; i++) pool.allocate(64, { tag: `request ${i}` }).free()
    const again = pool.allocate(64, { tag: 'kept' })
    assert.equal(manager.getMemoryUsage().tags.kept.used, 128)
    kept.free()
    again.free()
    assert.ok(Object.keys(manager.getMemoryUsage().tags).length <= 1300)
    assert.equal(manager.getMemoryUsage().tags.kept?.used ?? 0, 0)
  })
})

describe('blocks that were dropped while they were pinned', () => {
  test('show in the statistics, the metrics, the snapshot and as leaks, and go when they are unpinned by id', () => {
    const { result } = runChild('pinned-and-dropped.mjs', { flags: ['--expose-gc'] })
    assert.deepEqual(result.stats, { pinnedBlocks: 3, droppedPinnedBlocks: 2, droppedPinnedBytes: 2 * 4096 })
    assert.deepEqual(result.metrics, ['rkllm_memory_pinned_bytes 12288', 'rkllm_memory_pinned_dropped_bytes 8192'])
    assert.deepEqual(result.blocks, [true, true, null])
    assert.deepEqual(result.leaks, [{ pinned: true, dropped: true, size: 4096, tag: 'job', pool: 'p' }, 2])
    assert.deepEqual(result.session, { before: true, after: false })
    assert.deepEqual(result.live, 1)
    assert.deepEqual(result.thread, { orphanedBlocks: 1, orphanedBytes: 4096, after: 0 })
  })

  test('a block that still exists is not unpinned by its id, and an unknown id is an error', (t) => {
    const { manager, pool } = pooled(t)
    const block = pool.allocate(100)
    refuses(() => unpinDropped(block.id), 'ERR_OUT_OF_RANGE')
    block.pin()
    refuses(() => unpinDropped(block.id), 'ERR_BUFFER_BUSY')
    refuses(() => unpinDropped('1'), 'ERR_INVALID_ARG_TYPE')
    refuses(() => unpinDropped(0), 'ERR_OUT_OF_RANGE')
    const { pinned, dropped } = manager.describe(block.buffer)
    assert.deepEqual([pinned, dropped], [true, false])
    assert.equal(manager.getMemoryStats().pinnedBlocks, 1)
    block.unpin()
    assert.equal(manager.getMemoryStats().pinnedBlocks, 0)
  })
})
