/** Slabs: small NPU buffers share kernel objects transparently. */

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { closeDmaBuf } from '../../../index.js'
import {
  assertNothingLeft, fdsAtMost, GiB, KiB, MiB, needsSimulated, open, openFds, refuses, settle,
} from '../../support/helpers.mjs'

/** A manager whose slabs use places again at once. */
const withSlabs = (t, options = {}) => open(t, { slabs: { reuseAfterMs: 0 }, ...options })
const objects = (manager) => manager.getNPUMemoryStats().objects
const all = (buffer, byte) => new Uint8Array(buffer).every((found) => found === byte)

test('10,000 or 20,000 buffers of 16 KiB: a thousandth of the kernel objects and descriptors', (t) => {
  const manager = withSlabs(t)
  // A CMA area of 256 MiB has room for the smaller number.
  const count = manager.device.iommu ? 20_000 : 10_000
  const fds = openFds()
  const buffers = Array.from({ length: count }, () => manager.allocateNPUMemory(16 * KiB))
  assert.ok(objects(manager) <= 20, `${objects(manager)} objects`)
  assert.ok(openFds() - fds <= 20, `${openFds() - fds} descriptors`)
  const { liveAllocations, npuUsed } = manager.getMemoryStats()
  assert.deepEqual([liveAllocations, npuUsed], [count, count * 16 * KiB])
  const { slabs } = manager.getNPUMemoryStats()
  assert.equal(slabs.allocated, count * 16 * KiB)
  assert.ok(slabs.reserved >= slabs.allocated && slabs.reserved < slabs.allocated + 32 * MiB)
  assert.equal(new Set(buffers.map((buffer) => manager.describe(buffer).address)).size, count)
  for (const buffer of buffers) manager.deallocate(buffer)
  assertNothingLeft(manager)
  settle(manager)
  assert.equal(objects(manager), 1, 'one empty slab is kept')
  assert.ok(fdsAtMost(fds + 1) - fds <= 1)
})

test('more buffers than a board may have kernel objects', { skip: needsSimulated }, (t) => {
  const manager = withSlabs(t, { simulated: { maxObjects: 20 } })
  for (let i = 0; i < 5000; i++) manager.allocateNPUMemory(16 * KiB)
  const alone = open(t, { simulated: { maxObjects: 20 } })
  assert.throws(() => { for (;;) alone.allocateNPUMemory(16 * KiB) }, { code: 'ERR_TOO_MANY_FDS' })
  assert.equal(alone.getMemoryStats().liveAllocations, 20)
})

test('describe() of a slice', (t) => {
  const manager = withSlabs(t)
  const [first, second] = [manager.allocateNPUMemory(100), manager.allocateNPUMemory(5000, { tag: 'a' })]
  const { size, reservedSize, pool, dedicated, imported, tag, kind } = manager.describe(second)
  assert.deepEqual(
    { size, reservedSize, pool, dedicated, imported, tag, kind },
    { size: 5000, reservedSize: 8192, pool: null, dedicated: false, imported: false, tag: 'a', kind: 'npu' },
  )
  const [a, b] = [first, second].map((buffer) => manager.describe(buffer))
  assert.equal(b.address - a.address, BigInt(b.offset - a.offset), 'one object')
  if (a.deviceAddress !== null) assert.equal(b.deviceAddress - a.deviceAddress, BigInt(b.offset - a.offset))
  assert.equal(b.address % 4096n, 0n, 'no two slices share a page')
  assert.equal(manager.getMemoryUsage().tags.a.used, 8192)
  assert.deepEqual([objects(manager), manager.getMemoryUsage().pools], [1, []])
})

test('exportDmaBuf: the bytes are at the returned offset', (t) => {
  const manager = withSlabs(t)
  manager.allocateNPUMemory(100)
  const buffer = manager.allocateNPUMemory(5000)
  new Uint8Array(buffer).fill(0x17)
  manager.syncToDevice(buffer)
  const { fd, offset, size } = manager.exportDmaBuf(buffer)
  const whole = open(t).importDmaBuf(fd)
  closeDmaBuf(fd)
  assert.ok(offset > 0)
  assert.deepEqual([offset, size], [manager.describe(buffer).offset, 5000])
  assert.ok(new Uint8Array(whole, offset, size).every((byte) => byte === 0x17))
  assert.ok(new Uint8Array(whole, 0, offset).every((byte) => byte === 0))
  refuses(() => manager.syncToDevice(buffer, 0, 5001), 'ERR_OUT_OF_RANGE', 'the neighbour is not ours to sync')
  refuses(() => manager.syncToDevice(buffer, 5001), 'ERR_OUT_OF_RANGE')
})

describe('buffers that are no slices', () => {
  const isSlice = (manager, size, options) => !manager.describe(manager.allocateNPUMemory(size, options)).dedicated

  test('dedicated: true has an object of its own', (t) => {
    const manager = withSlabs(t)
    assert.equal(isSlice(manager, 4096), true)
    const buffer = manager.allocateNPUMemory(4096, { dedicated: true })
    const { dedicated, offset } = manager.describe(buffer)
    assert.deepEqual([dedicated, offset, objects(manager)], [true, 0, 2])
    const { fd, offset: exported } = manager.exportDmaBuf(buffer)
    closeDmaBuf(fd)
    assert.equal(exported, 0)
    assert.equal(isSlice(manager, 4096, { dedicated: false }), true)
    manager.deallocate(buffer)
    assert.equal(objects(manager), 1)
  })

  test('threshold: up to it, and not beyond', (t) => {
    for (const [slabs, below, above] of [
      [{}, MiB, MiB + 1],
      [{ threshold: 64 * KiB }, 64 * KiB, 64 * KiB + 1],
      [{ threshold: 1 }, 1, 2],
      [{ threshold: 2 * MiB }, 2 * MiB, 2 * MiB + 1],
      [{ threshold: 4 * MiB, size: 64 * MiB }, 4 * MiB, 4 * MiB + 1],
      // A slab must hold a few of them, or it would save nothing.
      [{ threshold: 2 ** 53 - 1 }, 4 * MiB, 4 * MiB + 1],
      [{ threshold: MiB, size: MiB }, 256 * KiB, 256 * KiB + 1],
    ]) {
      const manager = withSlabs(t, { slabs })
      // A slab takes at most a 32nd of a domain or of CMA.
      const { domainBytes } = manager.device
      const most = domainBytes > 0 ? domainBytes / 32 / 4 : Infinity
      assert.equal(isSlice(manager, Math.min(below, most)), true, JSON.stringify(slabs))
      assert.equal(isSlice(manager, Math.min(above, most + 1)), false, JSON.stringify(slabs))
    }
    const manager = withSlabs(t, { slabs: { threshold: 0 } })
    assert.equal(isSlice(manager, 1), false, '0 turns them off')
    assert.deepEqual(manager.getNPUMemoryStats().slabs.reserved, 0)
  })

  test('size: of one slab', { skip: needsSimulated }, (t) => {
    for (const [size, reserved] of [
      [MiB, MiB],
      [undefined, 16 * MiB],
      [48 * MiB, 48 * MiB],
      [2 ** 53 - 1, 128 * MiB],
    ]) {
      const manager = withSlabs(t, { slabs: { size } })
      manager.allocateNPUMemory(1)
      assert.equal(manager.getNPUMemoryStats().slabs.reserved, reserved)
    }
  })

  test('slabs too small for a slice are not made', (t) => {
    for (const size of [1, 4, 4095]) {
      const manager = withSlabs(t, { slabs: { size } })
      const buffer = manager.allocateNPUMemory(4096)
      assert.ok(all(buffer, 0))
      manager.deallocate(buffer)
      assertNothingLeft(manager)
    }
  })

  test('alignments beyond a page, and SRAM', (t) => {
    const manager = withSlabs(t)
    assert.equal(isSlice(manager, 100, { alignment: 4096 }), true)
    assert.equal(isSlice(manager, 100, { alignment: 64 * KiB }), false)
    assert.equal(isSlice(manager, 100, { placement: 'try-sram' }), false)
    assert.equal(isSlice(manager, 100, { placement: 'dram' }), true)
  })

  test('system memory', (t) => {
    const manager = withSlabs(t)
    manager.allocateSystemMemory(100)
    assert.deepEqual([objects(manager), manager.getNPUMemoryStats().slabs.reserved], [0, 0])
  })
})

test('classes are not mixed', { skip: needsSimulated }, (t) => {
  const manager = withSlabs(t)
  const classes = [
    {}, { cacheable: false }, { iommuDomain: 1 }, { iommuDomain: 2, cacheable: false }, { coreMask: 1 },
    { iommuDomain: 15 },
  ]
  for (let round = 0; round < 3; round++) {
    for (const options of classes) {
      const { dedicated, cacheable, iommuDomain } = manager.describe(manager.allocateNPUMemory(100, options))
      const expected = { dedicated: false, cacheable: options.cacheable ?? true, iommuDomain: options.iommuDomain ?? 0 }
      assert.deepEqual({ dedicated, cacheable, iommuDomain }, expected)
    }
    assert.equal(objects(manager), classes.length)
  }
  const { domains } = manager.getNPUMemoryStats()
  assert.deepEqual([0, 1, 2, 3, 15].map((id) => domains[id].used / MiB), [48, 16, 16, 0, 16])
})

test('zeroed by default, also in reused memory', (t) => {
  const manager = withSlabs(t)
  const anchor = manager.allocateNPUMemory(1)
  for (const size of [1, 100, 4096, 5000, 64 * KiB, MiB]) {
    const dirty = manager.allocateNPUMemory(size)
    const { address } = manager.describe(dirty)
    new Uint8Array(dirty).fill(0xaa)
    manager.deallocate(dirty)
    const clean = manager.allocateNPUMemory(size)
    assert.equal(manager.describe(clean).address, address, 'its place is used again')
    assert.ok(all(clean, 0), `${size}`)
    new Uint8Array(clean).fill(0xbb)
    manager.deallocate(clean)
    const asked = manager.allocateNPUMemory(size, { zeroed: true })
    assert.ok(all(asked, 0))
    manager.deallocate(asked)
    // The invisible rest of the last page is zero too: the next request may be larger.
    const larger = manager.allocateNPUMemory(Math.min(MiB, size + 3000))
    assert.ok(all(larger, 0))
    new Uint8Array(larger).fill(0xcc)
    manager.deallocate(larger)
  }
  manager.deallocate(anchor)
})

test('zeroed: false spares the time', { skip: needsSimulated }, (t) => {
  const manager = withSlabs(t)
  manager.allocateNPUMemory(1)
  const dirty = manager.allocateNPUMemory(4096)
  new Uint8Array(dirty).fill(0xaa)
  manager.deallocate(dirty)
  assert.ok(all(manager.allocateNPUMemory(4096, { zeroed: false }), 0xaa))
})

test('empty slabs are freed, except one', { skip: needsSimulated }, (t) => {
  const manager = withSlabs(t)
  const perSlab = 16
  const buffers = Array.from({ length: 5 * perSlab }, () => manager.allocateNPUMemory(MiB))
  assert.equal(objects(manager), 5)
  const free = (count) => buffers.splice(-count).forEach((buffer) => manager.deallocate(buffer))
  free(perSlab - 1)
  assert.equal(objects(manager), 5)
  const counts = []
  while (buffers.length > 0) {
    free(1)
    settle(manager)
    counts.push(objects(manager))
  }
  assert.deepEqual([Math.max(...counts), counts.at(-1)], [5, 1])
  assert.equal(manager.getNPUMemoryStats().domains[0].used, 16 * MiB, 'the ledger knows of the one that is kept')
  manager.deallocate(manager.allocateNPUMemory(MiB))
  settle(manager)
  assert.equal(objects(manager), 1)
})

describe('small boards', { skip: needsSimulated }, () => {
  test('a slab is a small part of the CMA', (t) => {
    for (const [domainBytes, slab] of [
      [256 * MiB, 8 * MiB],
      [64 * MiB, 2 * MiB],
      [16 * MiB, 512 * KiB],
      [4 * MiB, 256 * KiB],
    ]) {
      const manager = withSlabs(t, { simulated: { soc: 'rk3566', domainBytes } })
      const buffer = manager.allocateNPUMemory(4096)
      const { dedicated, contiguous } = manager.describe(buffer)
      assert.deepEqual([dedicated, contiguous], [false, true])
      assert.ok(all(buffer, 0), 'CMA is not zero by itself')
      assert.equal(manager.getNPUMemoryStats().slabs.reserved, slab)
    }
  })

  test('a dedicated object serves a request when no slab fits, down to the last page', (t) => {
    const domainBytes = 4 * MiB
    const manager = withSlabs(t, { simulated: { soc: 'rk3566', domainBytes } })
    const big = manager.allocateNPUMemory(domainBytes - 100 * KiB)
    const small = manager.allocateNPUMemory(4096)
    assert.equal(manager.describe(small).dedicated, true)
    let count = 1
    let error
    for (; !error; count++) {
      try {
        assert.ok(all(manager.allocateNPUMemory(4096), 0))
      } catch (thrown) {
        error = thrown
      }
    }
    assert.equal(error.code, 'ERR_OUT_OF_MEMORY')
    assert.equal(error.requested, 4096)
    assert.equal(count - 1, 25)
    assert.equal(manager.getNPUMemoryStats().failedAllocations, 1)
    manager.deallocate(big)
    assert.equal(manager.describe(manager.allocateNPUMemory(4096)).dedicated, false)
  })

  test('the error for an address space full of slabs has the figures of the request', (t) => {
    const manager = withSlabs(t, { simulated: { domainBytes: 64 * MiB, domains: 1 } })
    let error
    while (!error) {
      try {
        manager.allocateNPUMemory(512 * KiB)
      } catch (thrown) {
        error = thrown
      }
    }
    assert.deepEqual([error.code, error.requested], ['ERR_IOVA_EXHAUSTED', 512 * KiB])
    assert.ok(manager.getMemoryStats().npuUsed >= 62 * MiB, 'nearly all of it was used')
  })

  test('a request that needs memory frees an empty slab', (t) => {
    const manager = withSlabs(t, { simulated: { domainBytes: 64 * MiB, domains: 1 } })
    for (const buffer of Array.from({ length: 80 }, () => manager.allocateNPUMemory(512 * KiB)))
      manager.deallocate(buffer)
    assert.equal(objects(manager), 1)
    const error = (() => {
      try {
        manager.allocateNPUMemory(63 * MiB)
      } catch (thrown) {
        return thrown
      }
    })()
    assert.equal(error, undefined, error?.message)
  })
})

test('dispose detaches slices and frees the slabs', (t) => {
  const manager = withSlabs(t)
  const fds = openFds()
  const buffers = Array.from({ length: 100 }, () => manager.allocateNPUMemory(16 * KiB))
  manager.dispose()
  assert.ok(buffers.every(({ byteLength }) => byteLength === 0))
  assert.ok(fdsAtMost(fds) <= fds)
  refuses(() => withSlabs(t).deallocate(buffers[0]), 'ERR_BUFFER_FREED')
})

test('a pool\'s chunks are no slices, however small', (t) => {
  const manager = withSlabs(t)
  manager.allocateNPUMemory(100)
  const pool = manager.createMemoryPool({ name: 'p', initialSize: 64 * KiB })
  assert.equal(objects(manager), 2)
  assert.equal(manager.describe(pool.allocateBuffer(100)).offset, 0)
  assert.ok(manager.getNPUMemoryStats().available < 64 * GiB)
})

test('options of slabs', (t) => {
  for (const [slabs, code] of [
    [{ threshold: -1 }, 'ERR_OUT_OF_RANGE'],
    [{ threshold: 0.5 }, 'ERR_OUT_OF_RANGE'],
    [{ threshold: NaN }, 'ERR_OUT_OF_RANGE'],
    [{ threshold: 2 ** 53 }, 'ERR_OUT_OF_RANGE'],
    [{ size: 0 }, 'ERR_OUT_OF_RANGE'],
    [{ size: -1 }, 'ERR_OUT_OF_RANGE'],
    [{ threshold: '1' }, 'ERR_INVALID_ARG_TYPE'],
    [{ size: 1n }, 'ERR_INVALID_ARG_TYPE'],
    [{ size: null }, 'ERR_INVALID_ARG_TYPE'],
    [{ treshold: 1 }, 'ERR_INVALID_ARG_TYPE'],
    [null, 'ERR_INVALID_ARG_TYPE'],
    [true, 'ERR_INVALID_ARG_TYPE'],
    [[], 'ERR_INVALID_ARG_TYPE'],
  ]) {
    refuses(
      () => open(t, { slabs }),
      code,
      JSON.stringify(slabs, (_, value) => (typeof value === 'bigint' ? `${value}n` : value)),
    )
  }
})
