/** Movable blocks, defragment, and automatic compaction. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

import { MemoryBlock } from '../../../index.js'
import {
  assertNothingLeft, backend, device, KiB, MiB, needsTransfer, open, refuses, runChild,
} from '../../support/helpers.mjs'

/** Movable blocks of both kinds behave the same. */
const KINDS = ['npu', 'system']

function pool(manager, options) {
  return manager.createMemoryPool({ name: 'kv', kind: 'system', initialSize: MiB, ...options })
}

/** Fills the pool with movable blocks, each holding its number. */
function fill(pool, size, count, options) {
  return Array.from({ length: count }, (_, at) => {
    const block = pool.allocate(size, { movable: true, ...options })
    new Uint8Array(block.buffer).fill(at % 251)
    return block
  })
}

const holds = (block, byte) => new Uint8Array(block.buffer).every((found) => found === byte)
const everySecond = (blocks) => blocks.filter((block, at) => at % 2 === 0 && (block.free(), true))

for (const kind of KINDS) {
  test(`${kind}: compaction joins scattered blocks with their bytes, and detaches old views`, (t) => {
    const manager = open(t)
    const kv = pool(manager, { kind })
    const blocks = fill(kv, 16 * KiB, 64)
    const views = blocks.map((block) => block.buffer)
    everySecond(blocks)
    assert.ok(kv.stats().fragmentation > 0.9)
    refuses(() => manager.allocateFromPool(kv, 128 * KiB, { movable: true }), 'ERR_INVALID_ARG_TYPE')
    const result = kv.defragment()
    assert.ok(kv.stats().fragmentation < 0.02)
    assert.equal(result.moves.length, 16, 'the upper half goes into the lower one')
    assert.equal(result.bytesMoved, 16 * 16 * KiB)
    assert.ok(result.fragmentationBefore > 0.9 && result.fragmentationAfter < 0.02 && result.durationMs >= 0)
    const moved = new Map(result.moves.map((move) => [move.id, move]))
    for (const [at, block] of blocks.entries()) {
      if (at % 2 === 0) continue
      assert.equal(views[at].byteLength, moved.has(block.id) ? 0 : 16 * KiB)
      if (moved.has(block.id)) assert.notEqual(block.buffer, views[at])
      assert.ok(holds(block, at % 251), `block ${at}`)
      assert.equal(manager.describe(block.buffer).address, block.address)
      assert.equal(manager.describe(block.buffer).deviceAddress, block.deviceAddress)
      const move = moved.get(block.id)
      if (move) assert.deepEqual([move.size, move.from.chunk, move.to.chunk], [16 * KiB, 0, 0])
    }
    for (const [at, block] of blocks.entries()) if (at % 2) block.free()
    assert.equal(kv.stats().liveAllocations, 0)
    manager.destroyMemoryPool(kv)
    assertNothingLeft(manager)
  })
}

test('a movable block is a MemoryBlock with a name that stays', (t) => {
  const manager = open(t)
  const kv = pool(manager)
  const [low, high] = fill(kv, 4 * KiB, 2, { tag: 'cache' })
  const still = kv.allocate(64)
  assert.ok(high instanceof MemoryBlock && high.movable && !still.movable)
  const { id, address } = high
  assert.equal(manager.describe(high.buffer).tag, 'cache')
  const before = manager.getMemoryUsage().tags.cache
  low.free()
  assert.equal(kv.defragment().moves[0].id, id)
  assert.equal(high.id, id)
  assert.notEqual(high.address, address)
  assert.equal(manager.describe(high.buffer).tag, 'cache')
  assert.equal(manager.getMemoryUsage().tags.cache.used, before.used / 2)
  assert.equal(high.freed, false)
  kv.deallocate(high)
  assert.ok(high.freed)
  refuses(() => high.free(), 'ERR_BUFFER_FREED')
  refuses(() => high.buffer, 'ERR_BUFFER_FREED')
  refuses(() => high.address, 'ERR_BUFFER_FREED')
  refuses(() => high.pin(), 'ERR_BUFFER_FREED')
  assert.equal(manager.getMemoryUsage().tags.cache.used, 0)
  assert.equal(low.freed, true)
})

test('zeroing and alignment survive a move, also for blocks without a buffer', (t) => {
  const manager = open(t)
  const kv = pool(manager)
  new Uint8Array(kv.allocate(64 * KiB).buffer).fill(1)
  kv.reset()
  const low = kv.allocate(100, { movable: true })
  const block = kv.allocate(10_000, { movable: true, zeroed: true, alignment: 4 * KiB })
  low.free()
  kv.allocate(100)
  kv.defragment()
  assert.equal(block.address % 4096n, 0n)
  assert.ok(holds(block, 0))
})

test('pinned blocks stay, pins nest, and a pinned block is not freed', (t) => {
  const manager = open(t)
  const kv = pool(manager)
  const [low, high] = fill(kv, 4 * KiB, 2)
  low.free()
  high.pin()
  high.pin()
  const view = high.buffer
  assert.deepEqual(kv.defragment().moves, [])
  high.unpin()
  refuses(() => high.free(), 'ERR_BUFFER_BUSY')
  refuses(() => manager.deallocate(view), 'ERR_BUFFER_BUSY')
  assert.equal(view.byteLength, 4 * KiB)
  high.unpin()
  refuses(() => high.unpin(), 'ERR_OUT_OF_RANGE')
  assert.equal(kv.defragment().moves.length, 1)
  assert.equal(view.byteLength, 0)
  assert.ok(holds(high, 1))
  high.pin()
  high.unpin()
  high.free()
})

test('a block with a transferred buffer does not move', { skip: needsTransfer }, (t) => {
  const manager = open(t)
  const kv = pool(manager)
  const [low, high] = fill(kv, 4 * KiB, 2)
  low.free()
  const stolen = high.buffer.transfer()
  assert.deepEqual(kv.defragment().moves, [])
  assert.ok(new Uint8Array(stolen).every((byte) => byte === 1))
  refuses(() => high.free(), 'ERR_BUFFER_TRANSFERRED')
  manager.deallocate(stolen)
  assert.ok(high.freed)
  assert.equal(kv.stats().liveAllocations, 0)
})

test('blocks move across chunks, and empty chunks are freed', (t) => {
  const manager = open(t)
  const kv = pool(manager, { kind: 'npu', initialSize: 64 * KiB, maxSize: MiB })
  const blocks = fill(kv, 16 * KiB, 64)
  assert.equal(kv.stats().chunks, 16)
  blocks.forEach((block, at) => at % 4 === 1 || block.free())
  const { bytesFreed, moves } = kv.defragment()
  assert.equal(kv.stats().chunks, 4)
  assert.equal(bytesFreed, 12 * 64 * KiB)
  assert.ok(moves.every((move) => move.from.chunk !== move.to.chunk))
  blocks.forEach((block, at) => at % 4 === 1 && assert.ok(holds(block, at % 251), at))
})

test('a copy by several threads: every byte arrives', (t) => {
  const manager = open(t)
  const kv = pool(manager, { kind: 'npu', initialSize: 12 * MiB })
  const blocks = fill(kv, 16 * KiB, 768)
  const views = blocks.map((block) => block.buffer)
  everySecond(blocks)
  const { moves, bytesMoved, fragmentationAfter } = kv.defragment()
  assert.deepEqual([moves.length, bytesMoved], [192, 3 * MiB])
  assert.equal(fragmentationAfter, 0)
  const moved = new Set(moves.map(({ id }) => id))
  blocks.forEach((block, at) => {
    if (at % 2 === 0) return
    assert.equal(views[at].byteLength, moved.has(block.id) ? 0 : 16 * KiB)
    assert.ok(holds(block, at % 251), `block ${at}`)
    block.free()
  })
  assert.equal(kv.stats().liveAllocations, 0)
})

test('calls with minimal time limits compact the pool in the end', (t) => {
  const manager = open(t, { cleanup: { defragmentAbove: null } })
  const kv = pool(manager, { initialSize: 8 * MiB })
  const blocks = Array.from({ length: 2048 }, () => kv.allocate(4 * KiB, { movable: true }))
  everySecond(blocks)
  let moves = 0
  for (let call = 0; call < 2000 && kv.stats().fragmentation > 0; call++) {
    const some = kv.defragment({ maxMs: 0 }).moves.length
    assert.ok(some <= 1)
    moves += some
  }
  assert.equal(moves, 512)
  // A call that resumes an earlier pass sees the frees since then.
  blocks.slice(0, 100).forEach((block, at) => at % 2 && block.free())
  kv.defragment({ maxMs: 1000 })
  assert.ok(kv.stats().fragmentation < 0.01)
})

test('caps stop a compaction, and the next one resumes it', (t) => {
  const manager = open(t)
  const kv = pool(manager)
  everySecond(fill(kv, 16 * KiB, 64))
  assert.equal(kv.defragment({ maxMoves: 3 }).moves.length, 3)
  assert.equal(kv.defragment({ maxBytes: 2 * 16 * KiB + 1 }).moves.length, 2)
  assert.equal(kv.defragment({ maxMoves: 0 }).moves.length, 0)
  assert.ok(kv.defragment({ maxMs: 0 }).moves.length <= 1)
  assert.ok(kv.defragment().moves.length >= 10)
  assert.ok(kv.stats().fragmentation < 0.02)
  for (const [bad, code] of [
    [{ maxMoves: -1 }, 'ERR_OUT_OF_RANGE'],
    [{ maxBytes: 1.5 }, 'ERR_OUT_OF_RANGE'],
    [{ maxMs: '1' }, 'ERR_INVALID_ARG_TYPE'],
    [{ maxmoves: 1 }, 'ERR_INVALID_ARG_TYPE'],
    [null, 'ERR_INVALID_ARG_TYPE'],
  ]) {
    refuses(() => kv.defragment(bad), code)
  }
  manager.destroyMemoryPool(kv, { force: true })
  refuses(() => kv.defragment(), 'ERR_POOL_DESTROYED')
})

test("'relocated' reports the moves after they were made", async (t) => {
  const manager = open(t)
  const kv = pool(manager)
  const heard = []
  manager.on('relocated', (moves) => heard.push(...moves))
  everySecond(fill(kv, 16 * KiB, 8))
  const { moves } = kv.defragment()
  assert.deepEqual(heard, [])
  await nextTurn()
  assert.deepEqual(heard, moves)
  kv.defragment()
  await nextTurn()
  assert.equal(heard.length, moves.length, 'nothing to tell')
})

test('an allocation that would fail compacts first; with onExhaustion off it does not', (t) => {
  for (const onExhaustion of [true, false]) {
    const manager = open(t, { cleanup: { onExhaustion, defragmentAbove: null } })
    const kv = pool(manager)
    const blocks = fill(kv, 16 * KiB, 64)
    everySecond(blocks)
    const half = kv.stats().free / 2
    if (!onExhaustion) {
      refuses(() => kv.allocate(half), 'ERR_POOL_EXHAUSTED')
      continue
    }
    const whole = kv.allocateBuffer(half)
    const rest = kv.allocate(half)
    assert.equal(rest.size, half)
    assert.equal(whole.byteLength, half)
    blocks.forEach((block, at) => at % 2 && assert.ok(holds(block, at % 251), at))
    refuses(() => kv.allocate(1), 'ERR_POOL_EXHAUSTED')
  }
})

test('other pools free their empty chunks before an allocation fails at a limit', (t) => {
  const manager = open(t, { limits: { npu: { max: MiB } }, cleanup: { defragmentAbove: null } })
  const kv = pool(manager, { kind: 'npu', initialSize: 64 * KiB, maxSize: MiB })
  const blocks = fill(kv, 16 * KiB, 64)
  blocks.forEach((block, at) => at % 4 === 1 || block.free())
  const buffer = manager.allocateNPUMemory(512 * KiB)
  assert.equal(buffer.byteLength, 512 * KiB)
  const error = refuses(() => manager.allocateNPUMemory(512 * KiB), 'ERR_MEMORY_LIMIT')
  assert.match(error.hint, /setMemoryLimits/)
  blocks.forEach((block, at) => at % 4 === 1 && assert.ok(holds(block, at % 251), at))
})

test('scattered pools are compacted in the background after a free', async (t) => {
  const manager = open(t)
  const kv = pool(manager)
  const blocks = fill(kv, 16 * KiB, 64)
  everySecond(blocks)
  assert.ok(kv.stats().fragmentation > 0.9)
  for (let i = 0; i < 500 && kv.stats().fragmentation > 0.5; i++) await sleep(10)
  assert.ok(kv.stats().fragmentation <= 0.5)
  blocks.forEach((block, at) => at % 2 && assert.ok(holds(block, at % 251), at))
})

test('optimizeMemory runs every step and returns the gain', (t) => {
  const manager = open(t, { slabs: {}, cleanup: { defragmentAbove: null } })
  manager.deallocate(manager.allocateNPUMemory(16 * KiB))
  // The size of a slab depends on the board.
  const slab = manager.getNPUMemoryStats().slabs.reserved
  assert.ok(slab >= 256 * KiB)
  const kv = pool(manager, { kind: 'npu', initialSize: 64 * KiB, maxSize: MiB })
  const blocks = fill(kv, 16 * KiB, 16)
  blocks.forEach((block, at) => at % 4 === 1 || block.free())
  const none = manager.optimizeMemory({ trim: false, defragment: false })
  assert.deepEqual([none.bytesFreed, none.bytesMoved, none.pools], [0, 0, {}])
  const capped = manager.optimizeMemory({ trim: false, defragment: { maxMoves: 1 } })
  assert.equal(capped.pools.kv.moves.length, 1)
  const rest = manager.optimizeMemory()
  assert.equal(capped.bytesFreed + rest.bytesFreed, slab + 3 * 64 * KiB)
  assert.equal(capped.bytesMoved + rest.bytesMoved, 3 * 16 * KiB)
  assert.ok(rest.durationMs >= 0)
  assert.ok(blocks.every((block, at) => block.freed === (at % 4 !== 1)))
  refuses(() => manager.optimizeMemory({ defrag: true }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => manager.optimizeMemory({ defragment: { maxMoves: -1 } }), 'ERR_OUT_OF_RANGE')
  refuses(() => open(t, { cleanup: { defragmentAbove: 2 } }), 'ERR_OUT_OF_RANGE')
  refuses(() => open(t, { cleanup: { onPresure: true } }), 'ERR_INVALID_ARG_TYPE')
})

test('dropped blocks are collected, moved ones too', () => {
  const { result } = runChild('dropped-blocks.mjs', { flags: ['--expose-gc'], args: [backend, device ?? ''] })
  assert.deepEqual(result, { before: 8, moved: 4, after: 0 })
})

test('reset, destroy and dispose end movable blocks like all others', (t) => {
  for (const end of ['reset', 'destroy', 'dispose']) {
    const manager = open(t)
    const kv = pool(manager)
    const [shown, unseen] = fill(kv, 4 * KiB, 2)
    const view = shown.buffer
    if (end === 'reset') kv.reset()
    if (end === 'destroy') manager.destroyMemoryPool(kv, { force: true })
    if (end === 'dispose') manager.dispose()
    assert.equal(view.byteLength, 0)
    assert.ok(shown.freed && unseen.freed)
    refuses(() => shown.free(), 'ERR_BUFFER_FREED')
    refuses(() => unseen.buffer, 'ERR_BUFFER_FREED')
  }
})
