/**
 * Ends of slices: the garbage collector, moves between ArrayBuffers and threads, and pools that end while buffers
 * cannot be detached.
 */

import assert from 'node:assert/strict'
import { constants } from 'node:buffer'
import { createRequire } from 'node:module'
import { test } from 'node:test'

import {
  fdsAtMost, GiB, hasDetachKeys, KiB, MiB, needsTransfer, notOn, open, openFds, refuses, runChild, runtime,
  turnsUntil,
} from '../../support/helpers.mjs'

const native = createRequire(import.meta.url)('../../../src/js/core/binding.js')
const { MAX_LENGTH } = constants
const canTransfer = !needsTransfer
const conservative = notOn({ bun: 'its collector takes old values on the stack for references' })
const run = (...args) => runChild('pool-lifetime.mjs', { args, flags: ['--expose-gc'] }).result

test('the garbage collector frees slices that had a buffer, and their bytes are reused', () => {
  assert.deepEqual(run('dropped'), { before: 154, liveAllocations: 54, allocated: 54 * 4096, requested: 54 * 4096 })
})

test(
  'a slice that moved is not used again before its new buffer was collected',
  { skip: needsTransfer || conservative },
  () => {
    assert.deepEqual(run('moved'), { same: true, freed: false })
  },
)

for (const end of ['reset', 'destroy', 'dispose']) {
  test(`${end} under buffers that cannot be detached: they read zeros, and their addresses stay unused`, () => {
    // Without detach keys the runtime detaches marked buffers too.
    const attached = (hasDetachKeys ? 2 : 0) + (canTransfer ? 1 : 0)
    assert.deepEqual(run('held', end), { attached, moved: canTransfer, live: 0 })
  })
}

test('workers with pools are terminated', () => {
  assert.deepEqual(run('workers'), { mine: 2 })
})

test('a slice outlives a manager that was dropped', () => {
  assert.deepEqual(run('orphan'), { length: 4096 })
})

test('transfer(another length) frees the slice by itself', { skip: needsTransfer }, async (t) => {
  const manager = open(t)
  const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB })
  const block = pool.allocate(1000)
  const copy = block.buffer.transfer(10)
  assert.equal(copy.byteLength, 10)
  assert.ok(await turnsUntil(() => pool.stats().liveAllocations === 0))
  assert.equal(block.freed, true)
  refuses(() => block.free(), 'ERR_BUFFER_FREED')
  refuses(() => pool.deallocate(copy), 'ERR_UNKNOWN_BUFFER')
})

test('a BYOB stream moves a slice', async (t) => {
  const manager = open(t)
  const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB })
  const block = pool.allocate(1000)
  const stream = new ReadableStream({ type: 'bytes', pull: ({ byobRequest }) => byobRequest.respond(1) })
  const { value } = await stream.getReader({ mode: 'byob' }).read(new Uint8Array(block.buffer))
  refuses(() => block.free(), 'ERR_BUFFER_TRANSFERRED')
  assert.equal(manager.describe(value).address, block.address)
  pool.deallocate(value)
  assert.deepEqual([value.byteLength, block.freed, pool.stats().liveAllocations], [0, true, 0])
})

// JavaScript refuses such sizes before it asks the native part. Other runtimes make buffers of any size here.
const refusesBuffers = MAX_LENGTH === 4 * GiB && runtime === 'node'
const anyLength = refusesBuffers ? false : 'this runtime makes ArrayBuffers of more than 4 GiB'
test('an ArrayBuffer that the runtime refuses to make leaves its place free', { skip: anyLength }, (t) => {
  const { manager } = native.openManager('simulated', undefined, undefined, {})
  t.after(() => native.closeManager(manager))
  const all = 4 * GiB + MiB
  let pool
  try {
    pool = native.createPool(manager, { name: 'p', initialSize: all, maxSize: all, system: {} })
  } catch (error) {
    t.skip(`this machine has too little memory: ${error.message}`)
    return
  }
  for (let i = 0; i < 3; i++) {
    const refused = refuses(() => native.allocateFromPool(pool, all, undefined, false, undefined), 'ERR_OUT_OF_RANGE')
    assert.match(refused.message, /cannot create an ArrayBuffer/)
  }
  const { liveAllocations, allocated, waiting } = native.poolStats(pool)
  assert.deepEqual([liveAllocations, allocated, waiting], [0, 0, 0])
})

// The native part remembers the pool of the last call.
for (const end of ['destroy', 'dispose']) {
  test(`${end} frees the memory of the pool that was used last`, () => {
    const before = openFds()
    const manager = open({ after() {} }, { slabs: {} })
    const pool = manager.createMemoryPool({ name: 'p', initialSize: 64 * KiB })
    const blocks = [pool.allocate(100), pool.allocate(100)]
    if (end === 'destroy') manager.destroyMemoryPool(pool, { force: true })
    else blocks.forEach((block) => block.free())
    manager.dispose()
    assert.ok(fdsAtMost(before) <= before)
    refuses(() => pool.allocate(1), 'ERR_POOL_DESTROYED')
  })
}

test('stale views never see another allocation\'s bytes', (t) => {
  const manager = open(t, { slabs: {} })
  const pool = manager.createMemoryPool({ name: 'p', initialSize: 256 * KiB })
  const stale = []
  for (let i = 1; i <= 500; i++) {
    const [block, buffer, slice] = [
      pool.allocate(1 + i * 97), pool.allocateBuffer(1 + i * 31), manager.allocateNPUMemory(1 + i * 57),
    ]
    const views = [block.buffer, buffer, slice].map((one) => new Uint8Array(one).fill(i))
    for (const view of stale) assert.deepEqual([view.length, view[0]], [0, undefined])
    assert.ok(views.every((view) => view.every((byte) => byte === i % 256)))
    if (i % 3 === 0) pool.reset()
    else [() => block.free(), () => pool.deallocate(buffer)].forEach((free) => free())
    manager.deallocate(slice)
    stale.push(...views)
    stale.splice(0, stale.length - 30)
  }
  assert.equal(manager.getMemoryStats().liveAllocations, 0)
})

test('slices and slabs at the end of a process', () => {
  const manager = open({ after() {} }, { slabs: {} })
  const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB })
  globalThis.atTheEnd = [
    pool.allocate(100), pool.allocate(100).buffer, pool.allocateBuffer(100), manager.allocateNPUMemory(100),
  ]
})
