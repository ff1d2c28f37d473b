/** Exports and imports of parts: a slice leaves the process, and arrives, as itself. */

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { describe } from 'node:test'

import { closeDmaBuf, DmaBufInbox, sendDmaBuf } from '../../../index.js'
import { assertNothingLeft, KiB, MiB, open as openDevice, refuses, settle } from '../../support/helpers.mjs'

const open = (t, options) => openDevice(t, { slabs: {}, ...options })

const fill = (buffer, value) => void new Uint8Array(buffer).fill(value)
const all = (buffer, value) => new Uint8Array(buffer).every((byte) => byte === value)

/** Exports a buffer, calls `use` with the piece, and closes the descriptor. */
function exported(manager, buffer, use) {
  const piece = manager.exportDmaBuf(buffer)
  try {
    return use(piece)
  } finally {
    closeDmaBuf(piece.fd)
  }
}

/** Imports a buffer of `from` into `to`, as another process would. */
const importInto = (to, from, buffer, tag) =>
  exported(from, buffer, ({ fd, offset, size }) => to.importDmaBuf(fd, { offset, size, tag }))

describe('a slice', () => {
  const KINDS = {
    'of a slab': (manager) => (size) => manager.allocateNPUMemory(size),
    'of a pool': (manager) => {
      const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB })
      return (size) => pool.allocateBuffer(size)
    },
  }
  for (const [name, allocator] of Object.entries(KINDS)) {
    test(`${name} is imported as itself, and not as its neighbours`, (t) => {
      const [mine, yours] = [open(t), open(t)]
      const allocate = allocator(mine)
      const slices = [300, 5000, 8192, 64].map(allocate)
      slices.forEach((slice, i) => fill(slice, i + 1))
      slices.forEach((slice) => mine.syncToDevice(slice))
      for (const [i, slice] of slices.entries()) {
        const twin = importInto(yours, mine, slice, 'twin')
        assert.equal(twin.byteLength, slice.byteLength)
        yours.syncFromDevice(twin)
        assert.ok(all(twin, i + 1))
        const { offset, size, imported, tag, dedicated, address } = yours.describe(twin)
        const here = mine.describe(slice)
        assert.deepEqual([offset, size, imported, tag, dedicated], [here.offset, here.size, true, 'twin', false])
        // The first byte is at that offset of a mapping of the whole.
        assert.equal(address % 4096n, BigInt(offset % 4096))
        fill(twin, 100 + i)
        yours.syncToDevice(twin)
        mine.syncFromDevice(slice)
        slices.forEach((other, at) => assert.ok(all(other, at <= i ? 100 + at : at + 1), `slice ${at}`))
        refuses(() => yours.syncToDevice(twin, 0, twin.byteLength + 1), 'ERR_OUT_OF_RANGE')
        yours.syncToDevice(twin, 10, 20)
        yours.syncFromDevice(twin, twin.byteLength)
        yours.deallocate(twin)
      }
      assertNothingLeft(yours)
      assert.ok(slices.every((slice, i) => all(slice, 100 + i)))
    })
  }

  test('is counted by its pages, and its domain by the whole', (t) => {
    const [mine, yours] = [open(t), open(t, { limits: { npu: { max: 16 * KiB } } })]
    mine.allocateNPUMemory(100)
    const slice = mine.allocateNPUMemory(5000)
    const twin = importInto(yours, mine, slice)
    assert.deepEqual([yours.describe(twin).reservedSize, yours.getMemoryStats().npuUsed], [8 * KiB, 8 * KiB])
    assert.equal(yours.describe(importInto(yours, mine, slice)).reservedSize, 8 * KiB)
    // A third does not fit the limit, and leaves nothing behind.
    const { objects } = yours.getNPUMemoryStats()
    refuses(() => importInto(yours, mine, slice), 'ERR_MEMORY_LIMIT')
    settle(yours)
    assert.equal(yours.getNPUMemoryStats().objects, objects)
  })

  test('is exported, shared and imported again from an import of it', (t) => {
    const [mine, yours, third] = [open(t), open(t), open(t)]
    mine.allocateNPUMemory(100)
    const slice = mine.allocateNPUMemory(5000)
    fill(slice, 9)
    const twin = importInto(yours, mine, slice)
    const again = importInto(third, yours, twin)
    const adopted = yours.adopt(yours.share(twin))
    for (const buffer of [again, adopted]) assert.deepEqual([buffer.byteLength, all(buffer, 9)], [5000, true])
    assert.equal(third.describe(again).offset, mine.describe(slice).offset)
    mine.dispose()
    yours.deallocate(twin)
    assert.ok(all(again, 9) && all(adopted, 9))
    // The end of the import leaves zeros under it, not the neighbours' bytes.
    yours.deallocate(adopted)
    assertNothingLeft(yours)
  })

  test('that is the whole of its dma-buf is dedicated', (t) => {
    const manager = open(t)
    const buffer = manager.allocateNPUMemory(10_000, { dedicated: true })
    const twin = importInto(open(t), manager, buffer)
    assert.equal(twin.byteLength, 10_000)
    const reader = open(t)
    const described = reader.describe(importInto(reader, manager, buffer))
    assert.deepEqual([described.dedicated, described.offset, described.reservedSize], [true, 0, 12 * KiB])
  })
})

test('the part must be inside the dma-buf', (t) => {
  const [manager, other] = [open(t), open(t)]
  const buffer = manager.allocateNPUMemory(8192, { dedicated: true })
  exported(manager, buffer, ({ fd }) => {
    for (const importer of [manager, other]) {
      const parts = [{}, { offset: 0 }, { offset: 8 }, { offset: 4096, size: 4096 }, { offset: 8184, size: 8 }]
      const lengths = [...parts, { size: 1 }].map((options) => importer.importDmaBuf(fd, options).byteLength)
      assert.deepEqual(lengths, [8192, 8192, 8184, 4096, 8, 1])
      for (const options of [
        { size: 8193 }, { offset: 8192 }, { offset: 8192, size: 1 }, { offset: 4096, size: 4097 }, { offset: 2 ** 52 },
        { offset: 2 ** 53 - 8, size: 2 ** 53 - 1 }, { offset: 8, size: 2 ** 53 - 1 }, { offset: 1, size: 1 },
        { offset: 4 }, { offset: -8 }, { offset: 0.5 }, { offset: NaN }, { size: 0 }, { offset: 0, size: -1 },
      ]) {
        const before = importer.getMemoryStats().liveAllocations
        refuses(() => importer.importDmaBuf(fd, options), 'ERR_OUT_OF_RANGE', JSON.stringify(options))
        assert.equal(importer.getMemoryStats().liveAllocations, before)
      }
      for (const offset of ['8', null, 8n, {}]) {
        refuses(() => importer.importDmaBuf(fd, { offset }), 'ERR_INVALID_ARG_TYPE')
      }
      assert.match(refuses(() => importer.importDmaBuf(fd, { ofset: 8 }), 'ERR_INVALID_ARG_TYPE').hint, /offset/)
    }
  })
})

test('an asynchronous import is the same memory, and an aborted one leaves nothing', async (t) => {
  const [mine, yours] = [open(t), open(t)]
  mine.allocateNPUMemory(100)
  const slice = mine.allocateNPUMemory(5000)
  fill(slice, 7)
  const { fd, offset, size } = mine.exportDmaBuf(slice)
  const importing = yours.importDmaBufAsync(fd, { offset, size, tag: 'twin' })
  const controller = new AbortController()
  const aborted = yours.importDmaBufAsync(fd, { offset, size, signal: controller.signal })
  // The import has a descriptor of its own.
  closeDmaBuf(fd)
  controller.abort(new Error('enough'))
  await assert.rejects(aborted, { message: 'enough' })
  const twin = await importing
  assert.deepEqual([twin.byteLength, all(twin, 7), yours.describe(twin).tag], [5000, true, 'twin'])
  const whole = mine.exportDmaBuf(slice)
  const signal = AbortSignal.abort(Object.assign(new Error(), { code: 'x' }))
  for (const [options, code] of [
    [{ offset: 2 ** 40 }, 'ERR_OUT_OF_RANGE'], [{ offset: 4 }, 'ERR_OUT_OF_RANGE'],
    [{ ofset: 8 }, 'ERR_INVALID_ARG_TYPE'], [{ signal }, 'x'],
  ]) {
    await assert.rejects(yours.importDmaBufAsync(whole.fd, options), { code }, JSON.stringify(options))
  }
  closeDmaBuf(whole.fd)
  await assert.rejects(yours.importDmaBufAsync(whole.fd), { code: 'ERR_INVALID_ARG_TYPE' })
  yours.deallocate(twin)
  assertNothingLeft(yours)
  const last = mine.exportDmaBuf(slice)
  const late = yours.importDmaBufAsync(last.fd)
  closeDmaBuf(last.fd)
  yours.dispose()
  await assert.rejects(late, { code: 'ERR_MANAGER_DISPOSED' })
})

describe('a movable block', () => {
  function movables(t) {
    const manager = open(t)
    const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB, maxSize: MiB })
    const [hole, block, other] = [64, 64, 64].map((size) => pool.allocate(size * KiB, { movable: true }))
    fill(block.buffer, 7)
    return { manager, pool, hole, block, other }
  }

  test('is exported only while it is pinned', (t) => {
    const { manager, block } = movables(t)
    const error = refuses(() => manager.exportDmaBuf(block.buffer), 'ERR_UNSUPPORTED')
    assert.match(error.hint, /pin\(\)/)
    block.pin()
    exported(manager, block.buffer, ({ offset }) => assert.equal(offset, manager.describe(block.buffer).offset))
    block.unpin()
    refuses(() => manager.exportDmaBuf(block.buffer), 'ERR_UNSUPPORTED')
  })

  test('that was exported stays where its importer finds it, also unpinned, and others move', (t) => {
    const { manager, pool, hole, block, other } = movables(t)
    const importer = open(t)
    fill(other.buffer, 8)
    block.pin()
    const twin = importInto(importer, manager, block.buffer)
    const { address } = block
    block.unpin()
    hole.free()
    const { moves } = pool.defragment()
    assert.deepEqual([moves.length, block.address], [1, address], 'the other block moved into the hole')
    fill(pool.allocate(64 * KiB).buffer, 1)
    assert.ok(all(twin, 7) && all(block.buffer, 7) && all(other.buffer, 8))
    fill(twin, 9)
    importer.syncToDevice(twin)
    manager.syncFromDevice(block.buffer)
    assert.ok(all(block.buffer, 9))
    // It is freed as any other block, and the next one at its place moves again.
    block.free()
    const next = pool.allocate(64 * KiB, { movable: true })
    pool.defragment()
    assert.ok(pool.stats().largestFree >= MiB - 4 * 64 * KiB)
    next.free()
  })
})

describe('over a socket', () => {
  function inbox(t) {
    const folder = mkdtempSync(join(tmpdir(), 'rkllm-dma-buf-'))
    const made = new DmaBufInbox(join(folder, 'inbox'))
    t.after(() => {
      made.close()
      rmSync(folder, { recursive: true })
    })
    return made
  }

  test('a slice arrives as itself, and is sent on as itself', async (t) => {
    const [mine, yours] = [open(t), open(t)]
    const [first, second] = [inbox(t), inbox(t)]
    mine.allocateNPUMemory(100)
    const slice = mine.allocateNPUMemory(5000)
    fill(slice, 5)
    mine.syncToDevice(slice)
    const piece = mine.exportDmaBuf(slice)
    await sendDmaBuf(first.path, piece, 'früh')
    const received = await first.receive()
    assert.deepEqual({ ...received, fd: 0 }, { ...piece, fd: 0, message: 'früh' })
    await sendDmaBuf(second.path, received)
    const { fd, offset, size, message } = await second.receive()
    assert.deepEqual([offset, size, message], [piece.offset, 5000, ''])
    const twin = yours.importDmaBuf(fd, { offset, size })
    for (const done of [piece.fd, received.fd, fd]) closeDmaBuf(done)
    yours.syncFromDevice(twin)
    assert.deepEqual([twin.byteLength, all(twin, 5)], [5000, true])
  })

  test('an fd alone is the whole dma-buf', async (t) => {
    const [manager, here] = [open(t), inbox(t)]
    const buffer = manager.allocateNPUMemory(8192, { dedicated: true })
    const { fd, offset, size } = manager.exportDmaBuf(buffer)
    const sent = [fd, { fd, offset, size }, { fd, offset: 4096, size: 4096 }, { fd, offset: 64, size: 1 }]
    const parts = []
    for (const piece of sent) {
      await sendDmaBuf(here.path, piece, 'x')
      const { fd: received, ...rest } = await here.receive()
      closeDmaBuf(received)
      parts.push(Object.values(rest))
    }
    assert.deepEqual(parts, [[0, 8192, 'x'], [0, 8192, 'x'], [4096, 4096, 'x'], [64, 1, 'x']])
    for (const [piece, code] of [
      [{ fd, offset: 0, size: 8193 }, 'ERR_OUT_OF_RANGE'],
      [{ fd, offset: 8192, size: 1 }, 'ERR_OUT_OF_RANGE'],
      [{ fd, offset: 2 ** 53 - 1, size: 2 ** 53 - 1 }, 'ERR_OUT_OF_RANGE'],
      [{ fd, offset: 0, size: 0 }, 'ERR_OUT_OF_RANGE'],
      [{ fd, offset: -1, size: 1 }, 'ERR_OUT_OF_RANGE'],
      [{ fd, ofset: 1, size: 1 }, 'ERR_INVALID_ARG_TYPE'],
      [{ offset: 0, size: 1 }, 'ERR_INVALID_ARG_TYPE'],
      [{ fd: '3', offset: 0, size: 1 }, 'ERR_INVALID_ARG_TYPE'],
      [null, 'ERR_INVALID_ARG_TYPE'],
      [[fd], 'ERR_INVALID_ARG_TYPE'],
    ]) {
      await assert.rejects(sendDmaBuf(here.path, piece, 'x'), { code }, JSON.stringify(piece))
    }
    closeDmaBuf(fd)
  })
})
