/** Blocks and buffers of pools: every verb. */

import assert from 'node:assert/strict'
import { freemem } from 'node:os'
import { describe, test } from 'node:test'

import { closeDmaBuf, MemoryBlock } from '../../../index.js'
import { GiB, KiB, MiB, needsTransfer, open, refuses } from '../../support/helpers.mjs'
import { all, fill, KINDS, pooled } from '../../support/pools.mjs'

describe('blocks', () => {
  for (const kind of KINDS) {
    test(`a ${kind} block, before and after its buffer is read`, (t) => {
      const { manager, pool } = pooled(t, { kind })
      pool.allocate(100)
      const block = pool.allocate(1000)
      assert.ok(block instanceof MemoryBlock)
      assert.deepEqual([block.size, block.freed, block.movable], [1000, false, false])
      assert.equal(typeof block.id, 'number')
      assert.equal(typeof block.address, 'bigint')
      assert.equal(
        typeof block.deviceAddress,
        kind === 'npu' && manager.device.iommu ? 'bigint' : typeof block.deviceAddress,
      )
      if (kind === 'system') assert.equal(block.deviceAddress, null)
      assert.equal(manager.getMemoryStats().liveAllocations, 2)
      const { buffer, id, address } = block
      assert.ok(buffer instanceof ArrayBuffer)
      assert.equal(block.buffer, buffer, 'the same object each time')
      assert.equal(buffer.byteLength, 1000)
      assert.deepEqual([block.id, block.address], [id, address])
      assert.equal(manager.getMemoryStats().liveAllocations, 2, 'it is counted once')
      assert.equal(pool.stats().liveAllocations, 2)
      const info = manager.describe(buffer)
      assert.equal(info.address, block.address)
      assert.equal(info.deviceAddress, block.deviceAddress)
      const { size, reservedSize, tag, pool: name, dedicated, imported, offset } = info
      assert.deepEqual(
        { kind: info.kind, size, reservedSize, tag, name, dedicated, imported, offset },
        { kind, size: 1000, reservedSize: 1024, tag: null, name: 'p', dedicated: false, imported: false, offset: 128 },
      )
      assert.equal(manager.owns(buffer), true)
      fill(buffer, 5)
      block.free()
      assert.equal(buffer.byteLength, 0, 'detached')
      assert.equal(block.freed, true)
      refuses(() => block.free(), 'ERR_BUFFER_FREED')
      refuses(() => manager.deallocate(buffer), 'ERR_BUFFER_FREED')
      refuses(() => block.pin(), 'ERR_BUFFER_FREED')
    })
  }

  test('a block that was freed before its buffer was read has none', (t) => {
    const { pool } = pooled(t)
    const block = pool.allocate(100)
    const { address } = block
    block.free()
    assert.equal(block.freed, true)
    for (const use of [() => block.buffer, () => block.free(), () => block.pin(), () => pool.deallocate(block)]) {
      refuses(use, 'ERR_BUFFER_FREED')
    }
    const next = pool.allocate(100)
    assert.equal(next.address, address, 'its place is used again')
    refuses(() => block.buffer, 'ERR_BUFFER_FREED', 'and is not shown to the old one')
    refuses(() => block.free(), 'ERR_BUFFER_FREED')
    assert.equal(next.freed, false)
  })

  const small = freemem() < 6 * GiB ? 'needs 6 GiB of free memory' : false
  test('a block that is too large for an ArrayBuffer of this runtime stays a block', { skip: small }, (t) => {
    const size = 5 * GiB
    const { pool } = pooled(t, { kind: 'system', initialSize: size })
    const block = pool.allocate(size)
    try {
      assert.equal(block.buffer.byteLength, size)
    } catch (error) {
      assert.equal(error.code, 'ERR_OUT_OF_RANGE')
      assert.equal(error.requested, size)
      assert.equal(block.freed, false)
      assert.equal(pool.stats().liveAllocations, 1)
    }
    block.free()
    try {
      pool.deallocate(pool.allocateBuffer(size))
    } catch (error) {
      assert.equal(error.code, 'ERR_OUT_OF_RANGE')
    }
    assert.equal(pool.stats().liveAllocations, 0)
  })

  test('ids of live blocks differ', (t) => {
    const { pool } = pooled(t)
    const ids = new Set(Array.from({ length: 1000 }, () => pool.allocate(64).id))
    assert.equal(ids.size, 1000)
  })

  test('blocks do not overlap', (t) => {
    const { pool } = pooled(t, { maxSize: 4 * MiB })
    const blocks = Array.from({ length: 300 }, (_, i) => pool.allocate(1 + ((i * 7919) % 9000)))
    blocks.forEach(({ buffer }, i) => fill(buffer, i % 251))
    blocks.forEach(({ buffer }, i) => assert.ok(all(buffer, i % 251)))
  })

  test('pins nest, and keep a block from being freed', (t) => {
    const { manager, pool } = pooled(t)
    for (const expose of ['never', 'before', 'after']) {
      const block = pool.allocate(100)
      if (expose === 'before') fill(block.buffer, 3)
      block.pin()
      block.pin()
      if (expose === 'after') fill(block.buffer, 3)
      if (expose !== 'never') {
        for (const free of [manager, pool]) refuses(() => free.deallocate(block.buffer), 'ERR_BUFFER_BUSY')
      }
      for (const free of [
        () => block.free(), () => pool.deallocate(block), ...(Symbol.dispose ? [() => block[Symbol.dispose]()] : []),
      ]) {
        const error = refuses(free, 'ERR_BUFFER_BUSY')
        assert.match(error.message, /2 times/)
        assert.ok(error.hint)
      }
      if (expose !== 'never') assert.ok(all(block.buffer, 3))
      block.unpin()
      refuses(() => block.free(), 'ERR_BUFFER_BUSY')
      block.unpin()
      refuses(() => block.unpin(), 'ERR_OUT_OF_RANGE')
      block.free()
      assert.equal(block.freed, true)
    }
    assert.equal(pool.stats().liveAllocations, 0)
  })

  test('Symbol.dispose frees, once', { skip: Symbol.dispose === undefined }, (t) => {
    const { pool } = pooled(t)
    const block = pool.allocate(100)
    block[Symbol.dispose]()
    assert.equal(block.freed, true)
    block[Symbol.dispose]()
    const swept = pool.allocate(100)
    pool.reset()
    swept[Symbol.dispose]()
    assert.equal(pool.stats().liveAllocations, 0)
  })

  test('a block and its buffer share one state: freeing either ends both', (t) => {
    const { manager, pool } = pooled(t)
    const ways = [
      (block) => manager.deallocate(block.buffer),
      (block) => manager.deallocate(new DataView(block.buffer, 10)),
      (block) => manager.deallocateNPUMemory(block.buffer),
      (block) => pool.deallocate(block.buffer),
      (block) => pool.deallocate(new Uint16Array(block.buffer)),
      (block) => pool.deallocate(block),
      (block) => block.free(),
    ]
    for (const free of ways) {
      for (const options of [undefined, { zeroed: true }, { tag: 'x' }]) {
        const block = pool.allocate(100, options)
        const { buffer } = block
        free(block)
        assert.deepEqual([buffer.byteLength, block.freed, pool.stats().liveAllocations], [0, true, 0])
        refuses(() => block.free(), 'ERR_BUFFER_FREED')
        refuses(() => pool.deallocate(block), 'ERR_BUFFER_FREED')
        refuses(() => pool.deallocate(buffer), 'ERR_BUFFER_FREED')
        assert.equal(manager.owns(buffer), false)
      }
    }
    refuses(() => manager.deallocateSystemMemory(pool.allocate(64).buffer), 'ERR_BUFFER_KIND')
  })
})

describe('buffers', () => {
  test('allocateFromPool takes the pool or its name; allocateBuffer is the same', (t) => {
    const { manager, pool } = pooled(t)
    const buffers = [manager.allocateFromPool(pool, 100), manager.allocateFromPool('p', 200), pool.allocateBuffer(300)]
    assert.deepEqual(buffers.map(({ byteLength }) => byteLength), [100, 200, 300])
    for (const buffer of buffers) assert.equal(manager.describe(buffer).pool, 'p')
    assert.equal(pool.stats().requested, 600)
    const error = refuses(() => manager.allocateFromPool('q', 100), 'ERR_POOL_UNKNOWN')
    assert.match(error.message, /"q"/)
    assert.match(error.hint, /"p"/)
    assert.match(refuses(() => open(t).allocateFromPool('q', 100), 'ERR_POOL_UNKNOWN').hint, /none/)
    assert.equal(manager.getMemoryPool('p'), pool)
    assert.equal(manager.getMemoryPool('q'), undefined)
  })

  test('zeroed: clean after dirty reuse, in blocks and buffers; without it the bytes are as they were', (t) => {
    for (const kind of KINDS) {
      for (const layout of [{}, { blockSize: 32 * KiB }]) {
        const { pool } = pooled(t, { kind, initialSize: 32 * KiB, ...layout })
        const dirty = () => {
          const buffer = pool.allocateBuffer(32 * KiB)
          fill(buffer, 0xee)
          pool.deallocate(buffer)
        }
        assert.ok(all(pool.allocate(32 * KiB).buffer, 0), 'fresh memory is zero')
        pool.reset()
        dirty()
        const plain = pool.allocateBuffer(32 * KiB)
        assert.ok(all(plain, 0xee), 'no time is spent on what was not asked for')
        pool.deallocate(plain)
        const block = pool.allocate(32 * KiB, { zeroed: true })
        assert.ok(all(block.buffer, 0))
        block.free()
        dirty()
        pool.reset()
        const buffer = pool.allocateBuffer(32 * KiB, { zeroed: true })
        assert.ok(all(buffer, 0))
      }
    }
  })

  test('cache maintenance of a slice: its own bytes, by its own offsets', (t) => {
    const { manager, pool } = pooled(t)
    pool.allocate(5000)
    const buffer = pool.allocate(1000).buffer
    for (const verb of ['syncToDevice', 'syncFromDevice']) {
      for (const range of [[], [0], [0, 1000], [999, 1], [1000, 0], [1000], [10, 20]]) manager[verb](buffer, ...range)
      manager[verb](new Uint8Array(buffer, 10, 10))
      // The neighbour shares the kernel object, but is not part of this buffer.
      for (const range of [[0, 1001], [1001], [1, 1000], [2 ** 53 - 1, 1], [0, MiB]]) {
        const error = refuses(() => manager[verb](buffer, ...range), 'ERR_OUT_OF_RANGE', `${verb} ${range}`)
        assert.equal(error.limit, 1000)
      }
    }
    const system = manager.createMemoryPool({ name: 's', kind: 'system', initialSize: MiB }).allocateBuffer(100)
    refuses(() => manager.syncToDevice(system), 'ERR_BUFFER_KIND')
    refuses(() => manager.exportDmaBuf(system), 'ERR_BUFFER_KIND')
  })

  test('exportDmaBuf returns the offset of the slice, and its bytes are there', (t) => {
    const { manager, pool } = pooled(t)
    pool.allocate(5000)
    for (const buffer of [pool.allocate(3000).buffer, pool.allocateBuffer(100)]) {
      fill(buffer, 0x42)
      manager.syncToDevice(buffer)
      const { fd, offset, size } = manager.exportDmaBuf(buffer)
      try {
        assert.deepEqual([offset, size], [manager.describe(buffer).offset, buffer.byteLength])
        assert.ok(offset >= 5000)
        const whole = open(t).importDmaBuf(fd)
        assert.equal(whole.byteLength, MiB)
        assert.ok(new Uint8Array(whole, offset, size).every((byte) => byte === 0x42))
        new Uint8Array(whole, offset, size).fill(0x43)
        assert.ok(all(buffer, 0x43), 'it is the same memory')
        assert.ok(new Uint8Array(whole, 0, 5000).every((byte) => byte === 0))
      } finally {
        closeDmaBuf(fd)
      }
    }
  })

  test(
    'transfer() moves a slice; its place is not used again until the new buffer is gone',
    { skip: needsTransfer },
    (t) => {
      const { manager, pool } = pooled(t, { initialSize: 8192 })
      const block = pool.allocate(4096)
      const before = manager.describe(block.buffer)
      const moved = block.buffer.transfer()
      fill(moved, 9)
      refuses(() => block.free(), 'ERR_BUFFER_TRANSFERRED')
      assert.equal(block.freed, false, 'its memory is in use')
      assert.deepEqual(manager.describe(moved), before)
      const other = pool.allocate(4096)
      assert.notEqual(other.address, block.address)
      refuses(() => pool.allocate(64), 'ERR_POOL_EXHAUSTED')
      refuses(() => manager.destroyMemoryPool(pool), 'ERR_POOL_BUSY')
      assert.ok(all(moved, 9))
      pool.deallocate(moved)
      assert.deepEqual([moved.byteLength, block.freed], [0, true])
      assert.equal(pool.allocate(4096).address, before.address)
    },
  )
})
