/** Correct use of each verb and option. */

import assert from 'node:assert/strict'
import { fstatSync } from 'node:fs'
import { test } from 'node:test'

import { closeDmaBuf, MemoryManager, probeDevices } from '../../../index.js'
import {
  assertNothingLeft, backend, device, fdsAtMost, KiB, ledger, MiB, needsForeignFds, needsOwnKernel, needsSimulated,
  open, openFds, refuses, settle, simulated,
} from '../../support/helpers.mjs'

const isZero = (buffer) => Buffer.compare(Buffer.from(buffer), Buffer.alloc(buffer.byteLength)) === 0

test('NPU memory is an ArrayBuffer of the size asked for, zeroed and writable', (t) => {
  const manager = open(t)
  for (const size of [1, 63, 4096, 4097, 3 * MiB + 5]) {
    const buffer = manager.allocateNPUMemory(size)
    assert.ok(buffer instanceof ArrayBuffer)
    assert.equal(buffer.byteLength, size)
    assert.ok(isZero(buffer))
    new Uint8Array(buffer).fill(0xa5)
    assert.equal(new Uint8Array(buffer)[size - 1], 0xa5)
    manager.deallocateNPUMemory(buffer)
    assert.equal(buffer.byteLength, 0)
  }
  assertNothingLeft(manager)
})

test('system memory is an ArrayBuffer of the size asked for, zeroed and writable', (t) => {
  const manager = open(t)
  for (const size of [1, 100, 4096, 3 * MiB + 5]) {
    const buffer = manager.allocateSystemMemory(size)
    assert.ok(buffer instanceof ArrayBuffer)
    assert.equal(buffer.byteLength, size)
    assert.ok(isZero(buffer))
    new Uint8Array(buffer).fill(0xa5)
    manager.deallocateSystemMemory(buffer)
    assert.equal(buffer.byteLength, 0)
  }
  assertNothingLeft(manager)
})

test('memory that was written and freed comes back zeroed', (t) => {
  const manager = open(t)
  for (const allocate of ['allocateNPUMemory', 'allocateSystemMemory']) {
    for (let i = 0; i < 20; i++) {
      const buffer = manager[allocate](256 * KiB)
      assert.ok(isZero(buffer), allocate)
      new Uint8Array(buffer).fill(0xff)
      manager.deallocate(buffer)
    }
  }
})

test('buffers do not overlap', (t) => {
  const manager = open(t)
  const buffers = Array.from({ length: 40 }, (_, i) =>
    i % 2 ? manager.allocateNPUMemory(5000 + i) : manager.allocateSystemMemory(5000 + i),
  )
  buffers.forEach((buffer, i) => new Uint8Array(buffer).fill(i + 1))
  buffers.forEach((buffer, i) => assert.ok(new Uint8Array(buffer).every((byte) => byte === i + 1), `buffer ${i}`))
  const ranges = buffers
    .map((buffer) => manager.describe(buffer))
    .map(({ address, reservedSize }) => [address, address + BigInt(reservedSize)])
    .sort(([a], [b]) => (a < b ? -1 : 1))
  for (let i = 1; i < ranges.length; i++) assert.ok(ranges[i - 1][1] <= ranges[i][0])
})

test('deallocate takes either kind, and a view as well as its ArrayBuffer', (t) => {
  const manager = open(t)
  for (const allocate of ['allocateNPUMemory', 'allocateSystemMemory']) {
    const whole = manager[allocate](8192)
    manager.deallocate(whole)
    for (const view of [
      (buffer) => new Uint8Array(buffer),
      (buffer) => new Float32Array(buffer, 64, 10),
      (buffer) => new DataView(buffer, 5, 1),
      (buffer) => Buffer.from(buffer, 100, 200),
      (buffer) => new BigInt64Array(buffer, 8192),
    ]) {
      const buffer = manager[allocate](8192)
      manager.deallocate(view(buffer))
      assert.equal(buffer.byteLength, 0)
    }
  }
  assertNothingLeft(manager)
})

test('a freed buffer shows nothing, through any view', (t) => {
  const manager = open(t)
  const buffer = manager.allocateNPUMemory(4096)
  const bytes = new Uint8Array(buffer).fill(7)
  manager.deallocate(buffer)
  assert.equal(buffer.byteLength, 0)
  assert.equal(bytes.length, 0)
  assert.equal(bytes[0], undefined)
  bytes[0] = 1
  assert.throws(() => new Uint8Array(buffer), TypeError)
})

test('describe returns size, kind, tag and addresses', (t) => {
  const manager = open(t)
  const before = Date.now()
  const npu = manager.describe(manager.allocateNPUMemory(5000, { tag: 'weights' }))
  const system = manager.describe(manager.allocateSystemMemory(5000, { tag: 'prompt' }))
  const after = Date.now()

  const page = Number(npu.reservedSize) === 8192 ? 4096 : npu.reservedSize
  for (const info of [npu, system]) {
    assert.equal(info.size, 5000)
    assert.equal(info.reservedSize % page, 0)
    assert.ok(info.reservedSize >= 5000)
    assert.ok(Number.isSafeInteger(info.id))
    assert.equal(typeof info.address, 'bigint')
    assert.equal(info.address % BigInt(page), 0n)
    assert.ok(info.allocatedAt >= before - 1 && info.allocatedAt <= after + 1)
    assert.equal(info.imported, false)
    assert.equal(info.shared, false)
    assert.equal(info.pool, null)
    assert.equal(info.offset, 0)
    assert.equal(info.stack, null)
  }
  assert.notEqual(npu.id, system.id)
  assert.deepEqual([npu.kind, npu.tag, npu.backend, npu.dedicated], ['npu', 'weights', backend, true])
  assert.deepEqual([system.kind, system.tag, system.backend], ['system', 'prompt', null])
  assert.deepEqual([system.deviceAddress, system.iommuDomain], [null, null])
  assert.equal(npu.cacheable, true)
  assert.ok(npu.deviceAddress === null || typeof npu.deviceAddress === 'bigint')
})

test('describe answers the same for the ArrayBuffer and its views', (t) => {
  const manager = open(t)
  const buffer = manager.allocateNPUMemory(4096)
  const info = manager.describe(buffer)
  assert.deepEqual(manager.describe(new Uint8Array(buffer)), info)
  assert.deepEqual(manager.describe(new DataView(buffer, 100, 8)), info)
  assert.equal(manager.describe(manager.allocateNPUMemory(4096)).tag, null)
})

test('owns is true of live buffers of the manager, and of no other', (t) => {
  const manager = open(t)
  const other = open(t)
  const buffer = manager.allocateNPUMemory(4096)
  assert.equal(manager.owns(buffer), true)
  assert.equal(manager.owns(new Uint16Array(buffer, 2, 1)), true)
  assert.equal(other.owns(buffer), false)
  assert.equal(manager.owns(new ArrayBuffer(8)), false)
  assert.equal(manager.owns(Buffer.from('foreign')), false)
  manager.deallocate(buffer)
  assert.equal(manager.owns(buffer), false)
})

test('alignment: the addresses are multiples of it', (t) => {
  const manager = open(t)
  for (const alignment of [64, 4096, 64 * KiB, 2 * MiB]) {
    const system = manager.describe(manager.allocateSystemMemory(1000, { alignment }))
    assert.equal(system.address % BigInt(alignment), 0n, `system memory at ${alignment}`)
  }
  for (const alignment of [64, 4096]) {
    const npu = manager.describe(manager.allocateNPUMemory(1000, { alignment }))
    assert.equal(npu.address % BigInt(alignment), 0n, `NPU memory at ${alignment}`)
    assert.equal((npu.deviceAddress ?? 0n) % BigInt(alignment), 0n, `device address at ${alignment}`)
  }
})

test('zeroed: false gives usable memory with any contents', (t) => {
  const manager = open(t)
  for (const allocate of ['allocateNPUMemory', 'allocateSystemMemory']) {
    const bytes = new Uint8Array(manager[allocate](64 * KiB, { zeroed: false })).fill(3)
    assert.ok(bytes.every((byte) => byte === 3))
  }
})

test('system memory: lock, prefault and hugePages "try"', (t) => {
  const manager = open(t)
  for (const options of [
    { prefault: true },
    { hugePages: 'try' },
    { hugePages: 'try', prefault: true, alignment: 4 * MiB },
    { hugePages: false },
  ]) {
    const buffer = manager.allocateSystemMemory(4 * MiB, options)
    assert.ok(isZero(buffer))
    manager.deallocate(buffer)
  }
  // An unprivileged process may lock 64 KiB on every system.
  const locked = manager.allocateSystemMemory(16 * KiB, { lock: true })
  new Uint8Array(locked).fill(1)
  manager.deallocate(locked)
  assertNothingLeft(manager)
})

test('prefault: the pages are there before the first write', { skip: needsSimulated || needsOwnKernel }, (t) => {
  const manager = open(t)
  const before = manager.getSystemMemoryStats().rss
  manager.allocateSystemMemory(64 * MiB, { prefault: true })
  assert.ok(manager.getSystemMemoryStats().rss - before > 48 * MiB)
})

test('NPU options: every documented value is taken', { skip: needsSimulated }, (t) => {
  const manager = open(t)
  const info = (options) => manager.describe(manager.allocateNPUMemory(4096, options))
  assert.equal(info({ cacheable: true }).cacheable, true)
  assert.equal(info({ cacheable: false }).cacheable, false)
  assert.equal(info({ contiguous: false }).contiguous, false)
  assert.equal(info({ dedicated: true }).dedicated, true)
  assert.equal(info({ placement: 'dram' }).size, 4096)
  assert.equal(info({ placement: 'try-sram' }).size, 4096)
  assert.equal(info({ coreMask: 0b101 }).size, 4096)
  assert.equal(info({ iommuDomain: 0 }).iommuDomain, 0)
  assert.equal(info({ iommuDomain: 15 }).iommuDomain, 15)
  assert.equal(info({}).iommuDomain, 0)
})

test('options that are undefined are defaults', (t) => {
  const manager = open(t, { simulated: undefined })
  const all = { tag: undefined, alignment: undefined, zeroed: undefined }
  const npu = {
    ...all, cacheable: undefined, contiguous: undefined, placement: undefined, iommuDomain: undefined,
    coreMask: undefined, dedicated: undefined,
  }
  assert.equal(manager.describe(manager.allocateNPUMemory(4096, npu)).tag, null)
  assert.equal(manager.describe(manager.allocateNPUMemory(4096, undefined)).tag, null)
  const system = { ...all, hugePages: undefined, lock: undefined, prefault: undefined }
  assert.equal(manager.describe(manager.allocateSystemMemory(4096, system)).tag, null)
})

test('placement "try-sram" takes SRAM while there is some, and DRAM after', { skip: needsSimulated }, (t) => {
  const manager = open(t, { simulated: { sramBytes: 64 * KiB } })
  assert.equal(manager.device.sramTotal, 64 * KiB)
  const free = () => manager.getNPUMemoryStats().sramFree
  assert.equal(free(), 64 * KiB)
  const buffer = manager.allocateNPUMemory(64 * KiB, { placement: 'try-sram' })
  assert.equal(free(), 0)
  assert.equal(manager.allocateNPUMemory(64 * KiB, { placement: 'try-sram' }).byteLength, 64 * KiB)
  manager.deallocate(buffer)
  const again = manager.allocateNPUMemory(64 * KiB, { placement: 'try-sram' })
  assert.equal(free(), 0, 'it waits for what was freed')
  manager.deallocate(again)
  settle(manager)
  assert.equal(free(), 64 * KiB)
})

test('device addresses are unique, page-aligned and inside the domain', { skip: needsSimulated }, (t) => {
  const manager = open(t)
  const seen = []
  for (let i = 0; i < 50; i++) {
    const { deviceAddress, reservedSize } = manager.describe(manager.allocateNPUMemory(4096 * (1 + (i % 7))))
    assert.equal(deviceAddress % 4096n, 0n)
    const end = deviceAddress + BigInt(reservedSize)
    assert.ok(deviceAddress >= 0n && end <= BigInt(manager.device.domainBytes))
    for (const [from, to] of seen) assert.ok(end <= from || deviceAddress >= to, 'two buffers at one device address')
    seen.push([deviceAddress, end])
  }
})

test('sync takes whole buffers, ranges and views', (t) => {
  const manager = open(t)
  const buffer = manager.allocateNPUMemory(10_000)
  for (const verb of ['syncToDevice', 'syncFromDevice']) {
    assert.equal(manager[verb](buffer), undefined)
    manager[verb](buffer, 0)
    manager[verb](buffer, 4096)
    manager[verb](buffer, 0, 10_000)
    manager[verb](buffer, 9_999, 1)
    manager[verb](buffer, 5, 100)
    manager[verb](buffer, undefined, undefined)
    manager[verb](new Uint8Array(buffer))
  }
})

test('export and import are the same memory', { skip: needsForeignFds }, (t) => {
  const manager = open(t)
  const fds = openFds()
  const original = manager.allocateNPUMemory(3 * 4096)
  const exported = manager.exportDmaBuf(original)
  assert.equal(exported.offset, 0)
  assert.equal(exported.size, original.byteLength)
  assert.ok(Number.isInteger(exported.fd) && exported.fd > 2)

  const twin = manager.importDmaBuf(exported.fd, { size: exported.size, tag: 'twin' })
  assert.equal(twin.byteLength, original.byteLength)
  new Uint32Array(original)[700] = 0xdeadbeef
  manager.syncToDevice(original)
  assert.equal(new Uint32Array(twin)[700], 0xdeadbeef)
  new Uint8Array(twin)[1] = 99
  assert.equal(new Uint8Array(original)[1], 99)

  const [mine, theirs] = [manager.describe(original), manager.describe(twin)]
  assert.equal(theirs.imported, true)
  assert.equal(theirs.tag, 'twin')
  assert.equal(theirs.deviceAddress, mine.deviceAddress)

  // Either may be freed first: the other keeps the memory. The descriptor stays the caller's.
  manager.deallocate(original)
  assert.equal(new Uint32Array(twin)[700], 0xdeadbeef)
  fstatSync(exported.fd)
  manager.deallocate(twin)
  closeDmaBuf(exported.fd)
  assertNothingLeft(manager)
  settle(manager)
  assert.ok(fdsAtMost(fds) <= fds)
})

test('an import without a size is all of the dma-buf', (t) => {
  const manager = open(t)
  const { fd } = manager.exportDmaBuf(manager.allocateNPUMemory(8192))
  t.after(() => closeDmaBuf(fd))
  assert.equal(manager.importDmaBuf(fd).byteLength, 8192)
  assert.equal(manager.importDmaBuf(fd, {}).byteLength, 8192)
  assert.equal(manager.importDmaBuf(fd, { size: 100 }).byteLength, 100)
})

test('memory and its imports count once in the domain', { skip: needsSimulated }, (t) => {
  const manager = open(t)
  const used = () => manager.getNPUMemoryStats().domains[0].used
  const original = manager.allocateNPUMemory(MiB)
  assert.equal(used(), MiB)
  const { fd } = manager.exportDmaBuf(original)
  const twins = [manager.importDmaBuf(fd), manager.importDmaBuf(fd)]
  closeDmaBuf(fd)
  assert.equal(used(), MiB)
  manager.deallocate(original)
  manager.deallocate(twins[0])
  assert.equal(used(), MiB)
  manager.deallocate(twins[1])
  settle(manager)
  assert.equal(used(), 0)
})

test('each export is a descriptor of its own, closed on exec', { skip: needsForeignFds }, (t) => {
  const manager = open(t)
  const buffer = manager.allocateNPUMemory(4096)
  const [a, b] = [manager.exportDmaBuf(buffer).fd, manager.exportDmaBuf(buffer).fd]
  assert.notEqual(a, b)
  closeDmaBuf(a)
  fstatSync(b)
  closeDmaBuf(b)
})

test('the memory outlives its manager object through an exported descriptor', (t) => {
  const first = new MemoryManager({ backend, device })
  const buffer = first.allocateNPUMemory(4096)
  new Uint8Array(buffer)[7] = 77
  const { fd } = first.exportDmaBuf(buffer)
  t.after(() => closeDmaBuf(fd))
  first.dispose()
  const second = open(t)
  assert.equal(new Uint8Array(second.importDmaBuf(fd, { size: 4096 }))[7], 77)
})

test('device describes the opened device', (t) => {
  const manager = open(t)
  const info = manager.device
  assert.equal(info.backend, backend)
  assert.equal(info.simulated, simulated)
  assert.equal(manager.disposed, false)
  if (simulated) {
    assert.deepEqual(
      { path: info.path, soc: info.soc, iommu: info.iommu, domains: info.iommuDomains, bytes: info.domainBytes },
      { path: null, soc: 'rk3588', iommu: true, domains: 16, bytes: 2 ** 32 },
    )
  } else {
    assert.equal(typeof info.path, 'string')
  }
})

test('simulated options shape the device', { skip: needsSimulated }, (t) => {
  const cma = open(t, { simulated: { soc: 'rk3566' } })
  assert.equal(cma.device.soc, 'rk3566')
  assert.equal(cma.device.iommu, false)
  assert.equal(cma.getNPUMemoryStats().total, 256 * MiB)
  assert.equal(cma.describe(cma.allocateNPUMemory(4096)).contiguous, true)

  const small = open(t, { simulated: { domains: 2, domainBytes: 64 * MiB } })
  assert.equal(small.device.iommuDomains, 2)
  assert.equal(small.device.domainBytes, 64 * MiB)
  assert.equal(small.getNPUMemoryStats().domains.length, 2)
})

test('probeDevices lists devices and refusals', () => {
  const found = probeDevices()
  assert.ok(Array.isArray(found))
  for (const entry of found) {
    assert.equal(typeof entry.backend, 'string')
    if (entry.error) {
      assert.equal(typeof entry.path, 'string')
      assert.match(entry.error.code, /^ERR_/)
    } else {
      assert.equal(typeof entry.iommu, 'boolean')
    }
  }
  const firstRefusal = found.findIndex((entry) => entry.error)
  if (firstRefusal >= 0)
    assert.ok(
      found.slice(firstRefusal).every((entry) => entry.error),
      'devices come before refusals',
    )
})

test('managers do not share their accounting', (t) => {
  const [a, b] = [open(t), open(t)]
  const before = ledger(b)
  a.allocateNPUMemory(MiB)
  assert.deepEqual({ ...ledger(b), fds: 0 }, { ...before, fds: 0 })
})

test('a MemoryBlock is taken wherever a buffer is', { skip: needsSimulated }, async (t) => {
  const manager = open(t)
  const other = open(t)
  const pool = manager.createMemoryPool({ name: 'blocks', initialSize: 1 << 20 })
  for (const options of [undefined, { movable: true }, { tag: 'tagged' }]) {
    const block = pool.allocate(4096, options)
    assert.equal(manager.describe(block).pool, 'blocks')
    assert.equal(manager.owns(block), true)
    assert.equal(other.owns(block), false)
    manager.syncToDevice(block)
    manager.syncFromDevice(block, 0, 64)
    await manager.syncToDeviceAsync(block)
    await manager.syncFromDeviceAsync(block)
    for (const verb of ['describe', 'deallocate', 'deallocateNPUMemory', 'syncToDevice', 'exportDmaBuf', 'share'])
      refuses(() => other[verb](block), 'ERR_UNKNOWN_BUFFER', verb)
    refuses(() => manager.deallocateSystemMemory(block), 'ERR_BUFFER_KIND')
    manager.deallocate(block)
    assert.equal(block.freed, true)
    assert.equal(manager.owns(block), false)
    for (const verb of ['describe', 'deallocate', 'deallocateNPUMemory', 'syncToDevice', 'exportDmaBuf', 'share'])
      refuses(() => manager[verb](block), 'ERR_BUFFER_FREED', verb)
  }
  const block = pool.allocate(4096)
  closeDmaBuf(manager.exportDmaBuf(block).fd)
  assert.equal(manager.share(block).size, 4096)
  manager.deallocateNPUMemory(block)
  assert.equal(block.freed, true)
  assert.equal(pool.stats().liveAllocations, 0)
})

test('a tag of null is no tag', (t) => {
  const manager = open(t)
  assert.equal(manager.describe(manager.allocateNPUMemory(4096, { tag: null })).tag, null)
  assert.equal(manager.describe(manager.allocateSystemMemory(4096, { tag: null })).tag, null)
  const pool = manager.createMemoryPool({ name: 'p', initialSize: 65536, tag: null, allocation: { tag: null } })
  assert.equal(manager.describe(manager.allocateFromPool(pool, 64, { tag: null })).tag, null)
  assert.equal(manager.describe(pool.allocate(64, { tag: null })).tag, null)
  manager.reserve(4096, { tag: null }).release()
})

test('an empty name is refused with a sentence', (t) => {
  const manager = open(t)
  const named = /is ""; it must not be empty/
  const pool = () => manager.createMemoryPool({ name: '', initialSize: 4096 })
  assert.match(refuses(pool, 'ERR_OUT_OF_RANGE').message, named)
  for (const backend of ['auto', 'rknpu', 'rknpu-heap', 'rocket', 'dma-heap', 'simulated'])
    assert.match(refuses(() => new MemoryManager({ backend, device: '' }), 'ERR_OUT_OF_RANGE').message, named)
})
