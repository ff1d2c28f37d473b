/** Pools: every option of createMemoryPool, and the figures. */

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { inspect } from 'node:util'

import { MemoryPool } from '../../../index.js'
import {
  assertNothingLeft, KiB, ledger, MiB, needsSimulated, open, refuses, settle,
} from '../../support/helpers.mjs'
import { all, KINDS, pooled, sane } from '../../support/pools.mjs'

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
