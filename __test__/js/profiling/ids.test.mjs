/** Ids: one allocation has one id, no other has it, and every output has the same. */

import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { diffSnapshots, replayEventLog } from '../../../index.js'
import { KiB, open } from '../../support/helpers.mjs'

const ROUNDS = 8

/** Allocates in every way, round after round. Returns each allocation's id, and its free. */
function allocateInEveryWay(manager) {
  const pools = ['a', 'b'].map((name) => manager.createMemoryPool({ name, kind: 'system', initialSize: 1024 * KiB }))
  const fixed = manager.createMemoryPool({ name: 'fixed', kind: 'system', initialSize: 256 * KiB, blockSize: 4 * KiB })
  const made = []
  const ofBlock = (block) => made.push({ id: block.id, free: () => block.free() })
  const ofBuffer = (buffer) => {
    made.push({ id: manager.describe(buffer).id, free: () => manager.deallocate(buffer) })
  }
  for (let round = 0; round < ROUNDS; round++) {
    ofBuffer(manager.allocateNPUMemory(KiB, { tag: 'slab' }))
    ofBuffer(manager.allocateNPUMemory(8 * KiB, { dedicated: true }))
    ofBuffer(manager.allocateSystemMemory(4 * KiB))
    for (const pool of [...pools, fixed]) {
      ofBlock(pool.allocate(KiB))
      ofBlock(pool.allocate(KiB, { movable: true }))
      ofBlock(pool.allocate(KiB, { tag: 'own', zeroed: true }))
      ofBuffer(pool.allocateBuffer(KiB))
    }
  }
  return made
}

const distinct = (list) => new Set(list).size
const sorted = (list) => [...list].sort((a, b) => a - b)

test('no two allocations of the process have the same id, in any pool and any manager', (t) => {
  const managers = [1, 2].map(() => open(t))
  const made = managers.flatMap(allocateInEveryWay)
  assert.equal(made.length, 2 * ROUNDS * 15)
  assert.equal(distinct(made.map(({ id }) => id)), made.length)
})

test('a block has the same id as its buffer, and after its free', (t) => {
  const manager = open(t)
  const pool = manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: 64 * KiB })
  for (const options of [undefined, { movable: true }, { tag: 't' }, { zeroed: true }, { alignment: 256 }]) {
    const block = pool.allocate(KiB, options)
    const { id } = block
    assert.equal(manager.describe(block.buffer).id, id)
    const other = pool.allocate(KiB, options)
    block.free()
    assert.equal(block.id, id)
    // The same place, and another allocation.
    const next = pool.allocate(KiB, options)
    assert.ok(next.id !== id && next.id !== other.id)
    other.free()
    next.free()
  }
})

test('events, snapshots, the log, the trace, the replay and the report have every allocation once', async (t) => {
  const manager = open(t, { profiling: { sampleInterval: 1 } })
  const empty = manager.takeSnapshot()
  const made = allocateInEveryWay(manager)
  const ids = sorted(made.map(({ id }) => id))
  const bytes = manager.takeSnapshot()
  const diff = diffSnapshots(empty, bytes)
  assert.deepEqual(sorted(diff.added.map(({ id }) => id)), ids)
  assert.equal(diff.byKind.reduce((sum, { countAfter }) => sum + countAfter, 0), made.length)
  const blocks = bytes.pools.flatMap(({ chunkMaps }) => chunkMaps.flatMap((chunk) => chunk.blocks))
  const inPools = blocks.map(({ id }) => id).filter((id) => id !== null)
  assert.equal(distinct(inPools), ROUNDS * 12)
  assert.equal(distinct([...inPools, ...bytes.buffers.map(({ id }) => id)]), made.length)

  made.filter((_, at) => at % 2 === 0).forEach(({ free }) => free())
  const after = diffSnapshots(bytes, manager.takeSnapshot())
  const freed = sorted(made.filter((_, at) => at % 2 === 0).map(({ id }) => id))
  assert.deepEqual(sorted(after.gone.map(({ id }) => id)), freed)
  assert.deepEqual(after.added, [])

  const { events } = manager.getMemoryProfile()
  const of = (type) => events.filter((event) => event.type === type).map(({ id }) => id)
  assert.deepEqual(sorted(of('allocate')), ids)
  assert.equal(of('free').length, made.length / 2)
  assert.deepEqual(new Set([...ids, ...of('free')]).size, made.length)

  const folder = mkdtempSync(join(tmpdir(), 'rkllm-ids-'))
  try {
    await manager.writeReport(join(folder, 'log.csv'))
    await manager.writeReport(join(folder, 'log.trace.json'))
    await manager.writeReport(join(folder, 'page.html'))
    const log = readFileSync(join(folder, 'log.csv'), 'utf8')
    for (const replay of [replayEventLog(log), replayEventLog(events)]) {
      assert.deepEqual([replay.allocations, replay.frees], [made.length, made.length / 2])
      assert.equal(replay.liveAtEnd, made.length / 2)
    }
    const { traceEvents } = JSON.parse(readFileSync(join(folder, 'log.trace.json'), 'utf8'))
    const begun = traceEvents.filter(({ ph }) => ph === 'b')
    assert.deepEqual(sorted(begun.map(({ args }) => args.id)), ids)
    assert.equal(traceEvents.filter(({ ph }) => ph === 'e').length, made.length / 2)
    const page = readFileSync(join(folder, 'page.html'), 'utf8')
    const { holders } = JSON.parse(/id="data">(.*?)<\/script>/s.exec(page)[1])
    assert.equal(holders.id.length, made.length / 2)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('compaction moves a block and its id', (t) => {
  const manager = open(t, { profiling: true, cleanup: { defragmentAbove: null } })
  const pool = manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: 64 * KiB })
  const other = manager.createMemoryPool({ name: 'q', kind: 'system', initialSize: 64 * KiB })
  const strangers = Array.from({ length: 8 }, () => other.allocate(KiB, { movable: true }).id)
  const blocks = Array.from({ length: 8 }, () => pool.allocate(4 * KiB, { movable: true }))
  blocks.filter((_, at) => at % 2 === 0).forEach((block) => block.free())
  const left = blocks.filter((_, at) => at % 2 === 1)
  const ids = left.map(({ id }) => id)
  const { moves } = pool.defragment()
  assert.ok(moves.length > 0)
  for (const { id } of moves) assert.ok(ids.includes(id) && !strangers.includes(id))
  assert.deepEqual(left.map(({ id }) => id), ids)
  const [{ chunkMaps }] = manager.takeSnapshot().pools
  assert.deepEqual(
    sorted(chunkMaps.flatMap((chunk) => chunk.blocks.map(({ id }) => id)).filter((id) => id !== null)),
    sorted(ids),
  )
  const moved = manager.getMemoryProfile().events.filter(({ type }) => type === 'move')
  assert.deepEqual(sorted(moved.map(({ id }) => id)), sorted(moves.map(({ id }) => id)))
})
