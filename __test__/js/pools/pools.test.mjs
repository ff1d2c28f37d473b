/** Pools and blocks: every verb and option, the figures, and each end (free, reset, trim, destroy, dispose). */

import assert from 'node:assert/strict'
import { freemem } from 'node:os'
import { describe, test } from 'node:test'
import { inspect } from 'node:util'

import { closeDmaBuf, MemoryBlock, MemoryManager, MemoryPool } from '../../../index.js'
import {
  assertNothingLeft, backend, device, GiB, KiB, ledger, MiB, needsSimulated, needsTransfer, open, refuses, settle,
} from '../../support/helpers.mjs'

const KINDS = ['npu', 'system']

/** Creates a manager with a pool, by default of 1 MiB. */
function pooled(t, options = {}, managerOptions) {
  const manager = open(t, managerOptions)
  const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB, ...options })
  return { manager, pool }
}

const all = (buffer, byte) => new Uint8Array(buffer).every((found) => found === byte)
const fill = (buffer, byte) => new Uint8Array(buffer).fill(byte)

/** Asserts the invariants of a pool's figures. */
function sane(stats, { fixed = false } = {}) {
  assert.ok(stats.reserved >= stats.allocated && stats.allocated >= stats.requested, inspect(stats))
  assert.equal(stats.free, stats.reserved - stats.allocated)
  assert.ok(stats.largestFree <= stats.free && stats.peakAllocated >= stats.allocated)
  const expected = fixed || stats.free === 0 ? 0 : 1 - stats.largestFree / stats.free
  assert.ok(Math.abs(stats.fragmentation - expected) < 1e-12)
  return stats
}

describe('createMemoryPool', () => {
  for (const kind of KINDS) {
    test(`a fresh ${kind} pool in figures`, (t) => {
      const { manager, pool } = pooled(t, { kind })
      assert.ok(pool instanceof MemoryPool)
      assert.deepEqual([pool.name, pool.kind, pool.destroyed], ['p', kind, false])
      const expected = {
        name: 'p',
        kind,
        maxSize: MiB,
        chunks: 1,
        reserved: MiB,
        allocated: 0,
        requested: 0,
        free: MiB,
        peakAllocated: 0,
        largestFree: MiB,
        liveAllocations: 0,
        totalAllocations: 0,
        failedAllocations: 0,
        fragmentation: 0,
      }
      const { lateWrites, waiting, lost, grownAhead, failedAhead, ...stats } = pool.stats()
      assert.deepEqual([lateWrites, waiting, grownAhead, failedAhead], [0, 0, 0, 0])
      assert.deepEqual(lost, { slices: 0, bytes: 0 })
      assert.deepEqual(stats, expected)
      assert.deepEqual(manager.getMemoryUsage().pools, [pool.stats()])
      const { npuUsed, systemUsed, poolReserved, poolAllocated, liveAllocations } = manager.getMemoryStats()
      const used = kind === 'npu' ? [MiB, 0] : [0, MiB]
      assert.deepEqual([npuUsed, systemUsed, poolReserved, poolAllocated, liveAllocations], [...used, MiB, 0, 0])
      assert.equal(manager.getNPUMemoryStats().objects, kind === 'npu' ? 1 : 0)
    })
  }

  test('the kind is npu unless said otherwise', (t) => assert.equal(pooled(t).pool.kind, 'npu'))

  test('a pool of N bytes serves one allocation of N', (t) => {
    for (const size of [64, 4096, 100 * KiB, 3 * MiB + 64]) {
      const { pool } = pooled(t, { initialSize: size })
      const block = pool.allocate(size)
      assert.deepEqual([pool.stats().free, pool.stats().largestFree, pool.stats().fragmentation], [0, 0, 0])
      block.free()
    }
  })

  test('initialSize 0: the first allocation takes the first chunk', (t) => {
    const { manager, pool } = pooled(t, { initialSize: 0, maxSize: 8 * MiB })
    assert.deepEqual([pool.stats().chunks, pool.stats().reserved, manager.getMemoryStats().npuUsed], [0, 0, 0])
    const blocks = Array.from({ length: 100 }, () => pool.allocate(1000))
    assert.equal(pool.stats().chunks, 1, 'a chunk is for many, not for one request')
    blocks.forEach((block) => block.free())
    pool.trim()
    assert.equal(pool.stats().reserved, 0)
  })

  test('maxSize and chunkSize: it grows by chunks, and no further than the maximum', (t) => {
    const { manager, pool } = pooled(t, { initialSize: 128 * KiB, chunkSize: 256 * KiB, maxSize: 600 * KiB })
    const reserved = []
    const blocks = []
    for (;;) {
      try {
        blocks.push(pool.allocate(64 * KiB))
      } catch (error) {
        assert.equal(error.code, 'ERR_POOL_EXHAUSTED')
        break
      }
      reserved.push(sane(pool.stats()).reserved / KiB)
    }
    assert.deepEqual(reserved, [128, 128, 384, 384, 384, 384, 600, 600, 600])
    assert.equal(manager.getMemoryStats().npuUsed, 600 * KiB)
    assert.equal(manager.getNPUMemoryStats().objects, 3)
  })

  test('a request larger than a chunk has a chunk of its own', (t) => {
    const { pool } = pooled(t, { initialSize: 64 * KiB, chunkSize: 64 * KiB, maxSize: 4 * MiB })
    const block = pool.allocate(MiB)
    assert.deepEqual([pool.stats().chunks, pool.stats().reserved], [2, 64 * KiB + MiB])
    assert.equal(block.size, MiB)
  })

  test('blockSize: every block takes one, and larger ones are refused', (t) => {
    const { pool } = pooled(t, { initialSize: 64 * KiB, blockSize: 16 * KiB })
    const blocks = [1, 16 * KiB, 100, 5000].map((size) => pool.allocate(size))
    assert.deepEqual(blocks.map(({ size }) => size), [1, 16 * KiB, 100, 5000])
    const { allocated, requested, free, largestFree } = sane(pool.stats())
    assert.deepEqual({ allocated, requested, free, largestFree }, {
      allocated: 64 * KiB, requested: 1 + 16 * KiB + 100 + 5000, free: 0, largestFree: 0,
    })
    refuses(() => pool.allocate(1), 'ERR_POOL_EXHAUSTED')
    const error = refuses(() => pool.allocate(16 * KiB + 1), 'ERR_OUT_OF_RANGE')
    assert.deepEqual([error.requested, error.limit, error.scope], [16 * KiB + 1, 16 * KiB, 'pool:p'])
    const { address } = blocks[1]
    blocks[1].free()
    assert.equal(pool.stats().largestFree, 16 * KiB)
    assert.equal(pool.allocate(7).address, address)
  })

  test('a blockSize that is no multiple of the alignment is rounded up', (t) => {
    const { pool } = pooled(t, { initialSize: 64 * KiB, blockSize: 1000 })
    const [first, second] = [pool.allocate(1000), pool.allocate(1000)]
    assert.equal(second.address - first.address, 1024n)
    assert.equal(pool.allocate(1024).size, 1024)
  })

  test('alignment: of every slice, block and buffer', (t) => {
    for (const alignment of [64, 256, 4096, 64 * KiB]) {
      for (const kind of KINDS) {
        const { manager, pool } = pooled(t, { kind, alignment, initialSize: MiB })
        for (let i = 0; i < 3; i++) {
          assert.equal(pool.allocate(10).address % BigInt(alignment), 0n)
          const { address, reservedSize } = manager.describe(pool.allocateBuffer(10))
          assert.equal(address % BigInt(alignment), 0n)
          assert.equal(reservedSize, alignment)
        }
      }
    }
  })

  test('alignment of one allocation, up to a page', (t) => {
    for (const options of [{}, { blockSize: 192 }, { blockSize: 64 }]) {
      const { pool } = pooled(t, options)
      pool.allocate(10)
      for (const alignment of [64, 128, 1024, 4096]) {
        for (let i = 0; i < 3; i++) {
          assert.equal(pool.allocate(10, { alignment }).address % BigInt(alignment), 0n)
          assert.equal(pool.allocate(10, { alignment, zeroed: true }).address % BigInt(alignment), 0n)
        }
      }
      const error = refuses(() => pool.allocate(10, { alignment: 8192 }), 'ERR_OUT_OF_RANGE')
      assert.match(error.hint, /give the pool that alignment/)
    }
  })

  test('an alignment costs nothing where the pool is as large as the request', (t) => {
    const { pool } = pooled(t, { initialSize: 0, maxSize: 64 * KiB })
    pool.allocate(64 * KiB, { alignment: 4096 }).free()
    const { pool: full } = pooled(t, { initialSize: 64 * KiB })
    full.allocate(1)
    refuses(() => full.allocate(64 * KiB, { alignment: 4096 }), 'ERR_POOL_EXHAUSTED')
  })

  test('invalid alignments are refused, and the pool does not grow for them', (t) => {
    const { pool } = pooled(t, { initialSize: 4 * KiB, maxSize: MiB, chunkSize: 4 * KiB })
    for (const alignment of [96, 1, 2, 32, 63, 65, 4095]) {
      for (const options of [{ alignment }, { alignment, zeroed: true }, { alignment, tag: 'x' }]) {
        refuses(() => pool.allocate(10, options), 'ERR_OUT_OF_RANGE', inspect(options))
      }
      refuses(() => pool.allocateBuffer(10, { alignment }), 'ERR_OUT_OF_RANGE')
    }
    assert.deepEqual([pool.stats().chunks, pool.stats().liveAllocations], [1, 0])
  })

  test('tag: the pool\'s memory counts under it', (t) => {
    for (const kind of KINDS) {
      const { manager, pool } = pooled(t, { kind, tag: 'kv-cache', maxSize: 2 * MiB })
      const used = () => manager.getMemoryUsage().tags['kv-cache'].used
      assert.equal(used(), MiB)
      const block = pool.allocate(MiB)
      pool.allocate(MiB).free()
      assert.equal(used(), 2 * MiB)
      pool.trim()
      assert.equal(used(), MiB)
      block.free()
      manager.destroyMemoryPool(pool)
      assert.equal(used(), 0)
    }
  })

  test('allocation options reach the chunks', { skip: needsSimulated }, (t) => {
    const { manager, pool } = pooled(t, { allocation: { iommuDomain: 3, cacheable: false, tag: 'of the chunks' } })
    const buffer = pool.allocateBuffer(100)
    const { iommuDomain, cacheable, contiguous } = manager.describe(buffer)
    assert.deepEqual({ iommuDomain, cacheable, contiguous }, { iommuDomain: 3, cacheable: false, contiguous: false })
    assert.equal(manager.getNPUMemoryStats().domains[3].used, MiB)
    assert.equal(manager.getMemoryUsage().tags['of the chunks'].used, MiB)
    const system = manager.createMemoryPool({
      name: 's',
      kind: 'system',
      initialSize: MiB,
      allocation: { prefault: true, hugePages: 'try' },
    })
    assert.ok(all(system.allocateBuffer(MiB), 0))
  })

  test('allocation options that are unknown are named', (t) => {
    const manager = open(t)
    const create = (options) => () => manager.createMemoryPool({ name: 'p', initialSize: MiB, ...options })
    for (const [kind, misspelt, meant] of [['npu', 'cachable', 'cacheable'], ['system', 'prefalt', 'prefault']]) {
      const error = refuses(create({ kind, allocation: { [misspelt]: true } }), 'ERR_INVALID_ARG_TYPE')
      assert.match(error.message, new RegExp(`createMemoryPool: allocation has no option "${misspelt}"`))
      assert.match(error.hint, new RegExp(`did you mean "${meant}"`))
    }
    refuses(
      create({ kind: 'system', allocation: { iommuDomain: 0 } }),
      'ERR_INVALID_ARG_TYPE',
      'an option of the other kind',
    )
    refuses(create({ allocation: { prefault: true } }), 'ERR_INVALID_ARG_TYPE', 'an option of the other kind')
    assert.equal(manager.getMemoryPool('p'), undefined)
    assertNothingLeft(manager)
  })

  test('a name is unique', (t) => {
    const { manager, pool } = pooled(t)
    const before = ledger(manager)
    const error = refuses(() => manager.createMemoryPool({ name: 'p', initialSize: MiB }), 'ERR_POOL_EXISTS')
    assert.match(error.message, /"p"/)
    assert.match(error.hint, /getMemoryPool/)
    assert.deepEqual(ledger(manager), before)
    manager.destroyMemoryPool(pool)
    const again = manager.createMemoryPool({ name: 'p', initialSize: MiB })
    assert.notEqual(again, pool)
    assert.equal(manager.getMemoryPool('p'), again)
    assert.equal(pool.destroyed, true)
    refuses(() => manager.allocateFromPool(pool, 1), 'ERR_POOL_DESTROYED', 'the old one is not the new one')
    refuses(() => manager.destroyMemoryPool(pool), 'ERR_POOL_DESTROYED', 'nor ends it')
    const other = open(t)
    assert.equal(other.createMemoryPool({ name: 'p', initialSize: MiB }).name, 'p', 'names are a manager\'s own')
  })

  test('unusual names are valid', (t) => {
    const manager = open(t)
    for (const name of ['__proto__', 'constructor', 'KV \u{1f9e0}', 'a\0b', 'x'.repeat(1000)]) {
      const pool = manager.createMemoryPool({ name, initialSize: 4096 })
      assert.equal(manager.getMemoryPool(name), pool)
      const buffer = manager.allocateFromPool(name, 100)
      assert.equal(manager.describe(buffer).pool, name)
      pool.deallocate(buffer)
      assert.equal(pool.stats().name, name)
      manager.destroyMemoryPool(name)
      assert.equal(manager.getMemoryPool(name), undefined)
    }
  })

  test('a size beyond the device: no pool is made, and no memory is taken', { skip: needsSimulated }, (t) => {
    const manager = open(t)
    const before = ledger(manager)
    const codes = ['ERR_OUT_OF_RANGE', 'ERR_IOVA_EXHAUSTED', 'ERR_OUT_OF_MEMORY']
    for (const initialSize of [8 * 1024 * MiB, 2 ** 45]) {
      assert.throws(() => manager.createMemoryPool({ name: 'p', initialSize }), ({ code }) => codes.includes(code))
      assert.equal(manager.getMemoryPool('p'), undefined)
    }
    assert.deepEqual(ledger(manager), before)
    assert.deepEqual(manager.getMemoryUsage().pools, [])
  })
})

describe('figures', () => {
  test('exact through allocations and frees', (t) => {
    const { manager, pool } = pooled(t, { initialSize: 64 * KiB })
    const blocks = [1, 64, 65, 1000, 4096].map((size) => pool.allocate(size))
    const allocated = 64 + 64 + 128 + 1024 + 4096
    assert.deepEqual(pick(pool.stats()), {
      maxSize: 65536,
      reserved: 65536,
      allocated,
      requested: 5226,
      free: 65536 - allocated,
      peakAllocated: allocated,
      largestFree: 65536 - allocated,
      liveAllocations: 5,
      totalAllocations: 5,
      failedAllocations: 0,
      fragmentation: 0,
    })
    // A hole of 1024 between neighbours: it is free, and not part of the largest.
    blocks[3].free()
    const free = 65536 - allocated + 1024
    const largest = sane(pool.stats()).largestFree
    assert.deepEqual(pick(pool.stats()), {
      maxSize: 65536,
      reserved: 65536,
      allocated: allocated - 1024,
      requested: 4226,
      free,
      peakAllocated: allocated,
      largestFree: largest,
      liveAllocations: 4,
      totalAllocations: 5,
      failedAllocations: 0,
      fragmentation: 1 - largest / free,
    })
    assert.ok(largest < free, 'it is fragmented')
    const summary = manager.getMemoryStats()
    assert.deepEqual(
      [summary.poolReserved, summary.poolAllocated, summary.npuUsed, summary.liveAllocations],
      [65536, allocated - 1024, 65536, 4],
    )
    assert.equal(manager.getMemoryUsage().fragmentation, pool.stats().fragmentation)
    // An allocation of the largest free range succeeds; one byte more fails.
    refuses(() => pool.allocate(largest + 1), 'ERR_POOL_EXHAUSTED')
    pool.allocate(largest).free()
    assert.equal(pool.stats().failedAllocations, 1)
    for (const block of blocks) if (!block.freed) block.free()
    assert.deepEqual(pick(pool.stats()), {
      maxSize: 65536,
      reserved: 65536, allocated: 0, requested: 0, free: 65536, peakAllocated: 65536 - 1024, largestFree: 65536,
      liveAllocations: 0, totalAllocations: 6, failedAllocations: 1, fragmentation: 0,
    })
  })

  test('the error of exhaustion has the request, the free bytes, and a remedy', (t) => {
    const { pool } = pooled(t, { initialSize: 64 * KiB })
    pool.allocate(40 * KiB)
    const error = refuses(() => pool.allocate(30 * KiB), 'ERR_POOL_EXHAUSTED')
    assert.deepEqual(
      [error.requested, error.available, error.largestFree, error.limit, error.scope],
      [30 * KiB, 24 * KiB, 24 * KiB, 64 * KiB, 'pool:p'],
    )
    assert.match(error.message, /"p".*30 KiB.*40 KiB.*64 KiB.*24 KiB/)
    assert.match(error.hint, /maxSize/)
    const never = refuses(() => pool.allocateBuffer(64 * KiB + 1), 'ERR_OUT_OF_RANGE')
    assert.deepEqual([never.requested, never.limit, never.scope], [64 * KiB + 1, 64 * KiB, 'pool:p'])
    assert.equal(pool.stats().failedAllocations, 2)
  })

  test('growth that the device refuses: the error has the figures of the request', { skip: needsSimulated }, (t) => {
    const { manager, pool } = pooled(
      t,
      { maxSize: 128 * MiB, chunkSize: 100 * MiB },
      { simulated: { domainBytes: 64 * MiB, domains: 1 } },
    )
    pool.allocate(MiB)
    const before = ledger(manager)
    for (const allocate of [() => pool.allocate(1000), () => pool.allocateBuffer(1000)]) {
      const error = refuses(allocate, 'ERR_OUT_OF_RANGE')
      assert.deepEqual([error.requested, pool.stats().reserved, pool.stats().chunks], [1000, MiB, 1])
    }
    assert.equal(pool.stats().failedAllocations, 2)
    assert.deepEqual(ledger(manager), before)
  })

  test('the counters of a kind count slices too, and go on when their pool ends', (t) => {
    for (const kind of KINDS) {
      const { manager, pool } = pooled(t, { kind })
      const counters = () => {
        const stats = kind === 'npu' ? manager.getNPUMemoryStats() : manager.getSystemMemoryStats()
        const { used, peak, liveAllocations, totalAllocations, totalFrees, failedAllocations } = stats
        return { used, peak, liveAllocations, totalAllocations, totalFrees, failedAllocations }
      }
      pool.allocate(100).free()
      pool.allocate(100)
      pool.allocateBuffer(100)
      refuses(() => pool.allocate(2 * MiB), 'ERR_OUT_OF_RANGE')
      const expected = {
        used: MiB,
        peak: MiB,
        liveAllocations: 2,
        totalAllocations: 3,
        totalFrees: 1,
        failedAllocations: 1,
      }
      assert.deepEqual(counters(), expected)
      manager.destroyMemoryPool(pool, { force: true })
      assert.deepEqual(counters(), { ...expected, used: 0, liveAllocations: 0, totalFrees: 3 })
    }
  })

  test('the accounting of the device agrees with the figures', { skip: needsSimulated }, (t) => {
    const { manager, pool } = pooled(t, { initialSize: 256 * KiB, maxSize: 4 * MiB, chunkSize: 512 * KiB })
    const agrees = () => {
      settle(manager)
      const { domains, used, objects } = manager.getNPUMemoryStats()
      assert.deepEqual(
        [domains[0].used, used, objects],
        [pool.stats().reserved, pool.stats().reserved, pool.stats().chunks],
      )
    }
    agrees()
    const blocks = Array.from({ length: 12 }, () => pool.allocate(256 * KiB))
    agrees()
    blocks.forEach((block) => block.free())
    agrees()
    pool.trim()
    agrees()
  })

  test('fragmentation over all pools is weighted by free bytes', (t) => {
    const { manager, pool } = pooled(t, { initialSize: 4096 })
    manager.createMemoryPool({ name: 'q', kind: 'system', initialSize: 12288 })
    assert.equal(manager.getMemoryUsage().fragmentation, 0)
    const blocks = Array.from({ length: 4 }, () => pool.allocate(1024))
    blocks[0].free()
    blocks[2].free()
    assert.equal(pool.stats().fragmentation, 0.5)
    assert.ok(Math.abs(manager.getMemoryUsage().fragmentation - (0.5 * 2048) / (2048 + 12288)) < 1e-12)
  })

  test('tags of slices', (t) => {
    const { manager, pool } = pooled(t)
    const buffer = manager.allocateFromPool(pool, 1000, { tag: 'a' })
    const block = pool.allocate(1000, { tag: 'a' })
    assert.equal(manager.describe(buffer).tag, 'a')
    assert.equal(manager.describe(block.buffer).tag, 'a')
    const { used, liveAllocations } = manager.getMemoryUsage().tags.a
    assert.deepEqual([used, liveAllocations], [2048, 2])
    block.free()
    pool.deallocate(buffer)
    assert.deepEqual([manager.getMemoryUsage().tags.a.used, manager.getMemoryUsage().tags.a.totalFrees], [0, 2])
    assert.equal(manager.getMemoryStats().npuUsed, MiB)
  })

  function pick({ name, kind, chunks, lateWrites, waiting, lost, grownAhead, failedAhead, ...figures }) {
    return figures
  }
})

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
