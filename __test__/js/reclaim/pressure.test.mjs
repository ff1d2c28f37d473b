/**
 * Memory pressure from the kernel. These tests use a tree of files without PSI; `npm run test:kernel` uses a real
 * kernel.
 */

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { before, after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'
import {
  backend, device, fdsAtMost, KiB, MiB, open, openFds, refuses, runChild, threadsAtMost, threadsOf,
} from '../../support/helpers.mjs'

const { tree } = createRequire(import.meta.url)('../../../src/js/reclaim/pressure.js')
const root = mkdtempSync(join(tmpdir(), 'rkllm-pressure-'))

function available(kib) {
  writeFileSync(join(root, 'new'), `MemTotal: 1000 kB\nMemAvailable: ${kib} kB\n`)
  renameSync(join(root, 'new'), join(root, 'proc/meminfo'))
}

// The manager's events do not keep the event loop alive.
const alive = setInterval(() => {}, 1000)

before(() => {
  mkdirSync(join(root, 'proc'))
  available(900)
  tree.root = root
})
after(() => {
  clearInterval(alive)
  tree.root = '/'
  rmSync(root, { recursive: true })
})

/** Fills two chunks with movable blocks and frees every second one: compaction can free one chunk. */
function scattered(manager) {
  const pool = manager.createMemoryPool({
    name: 'kv',
    kind: 'system',
    initialSize: MiB,
    chunkSize: MiB,
    maxSize: 8 * MiB,
  })
  const blocks = Array.from({ length: 64 }, (_, at) => {
    const block = pool.allocate(64 * KiB, { movable: true })
    new Uint8Array(block.buffer).fill(at)
    return block
  })
  const kept = blocks.filter((block, at) => at % 2 === 0 || (block.free(), false))
  return { pool, kept }
}

test('cleanup first, then the event with the freed bytes', async (t) => {
  const manager = open(t, { slabs: {}, cleanup: { defragmentAbove: null } })
  const { pool, kept } = scattered(manager)
  manager.deallocate(manager.allocateNPUMemory(KiB)) // Leaves an empty slab.
  const reserved = pool.stats().reserved
  assert.equal(reserved, 4 * MiB)
  const told = once(manager, 'pressure')
  available(90)
  const [pressure] = await told
  assert.equal(pressure.level, 'some')
  assert.equal(pressure.available, 90 * KiB)
  assert.equal(pool.stats().reserved, 2 * MiB)
  assert.ok(pressure.released >= 2 * MiB, `${pressure.released} bytes`)
  kept.forEach((block, at) => assert.ok(new Uint8Array(block.buffer).every((byte) => byte === at * 2)))
  const worse = once(manager, 'pressure')
  available(9)
  assert.deepEqual(await worse, [{ level: 'full', available: 9 * KiB, released: 0 }])
  available(900)
})

test('idle models go first, the least valuable at some pressure and all at full; leased ones stay', async (t) => {
  const manager = open(t)
  const definition = { ramBytes: MiB, load: () => ({}) }
  const models = manager.createModelResidency({
    models: { used: definition, once: definition, often: { ...definition, priority: 1 } },
    keepFree: 0,
  })
  const lease = await models.acquire('used')
  await models.preload('once')
  await models.preload('often')
  const states = () => models.stats().models.map(({ state }) => state)
  const gone = once(models, 'gone')
  available(90)
  const [event] = await gone
  assert.deepEqual([event.name, event.reason, states()], ['once', 'pressure', ['ready', 'cold', 'ready']])
  const last = once(models, 'gone')
  available(9)
  await last
  assert.deepEqual(states(), ['ready', 'cold', 'cold'])
  lease.release()
  available(900)
})

test('onPressure: false: the event fires, and nothing is freed', async (t) => {
  const manager = open(t, { cleanup: { onPressure: false, defragmentAbove: null } })
  const { pool, kept } = scattered(manager)
  const told = once(manager, 'pressure')
  available(50)
  assert.deepEqual(await told, [{ level: 'some', available: 50 * KiB, released: 0 }])
  assert.equal(pool.stats().reserved, 4 * MiB)
  assert.ok(kept.every((block) => !block.freed))
  available(900)
  refuses(() => open(t, { cleanup: { onPressure: 1 } }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => open(t, { cleanup: { onpressure: true } }), 'ERR_INVALID_ARG_TYPE')
})

test('a pool destroyed and a manager disposed in the middle of a cleanup end it', async (t) => {
  const [one, other] = [
    open(t, { cleanup: { defragmentAbove: null } }),
    open(t, { cleanup: { defragmentAbove: null } }),
  ]
  // Holds the blocks: the collector would free them, and leave none to move.
  const [{ pool, kept }, others] = [scattered(one), scattered(other)]
  let heard = 0
  one.on('pressure', () => heard++)
  other.on('pressure', () => assert.equal(other.disposed, false))
  // Both clean up at the same time, in slices, each from a turn of its own.
  const relocated = once(one, 'relocated')
  other.once('relocated', () => other.dispose())
  available(60)
  await relocated
  one.destroyMemoryPool(pool, { force: true })
  while (heard === 0) await sleep(10)
  assert.ok([...kept, ...others.kept].every((block) => block.freed))
  available(900)
})

test('the descriptors and the thread end after the last manager', (t) => {
  const fds = openFds()
  const managers = Array.from({ length: 3 }, () => open(t))
  managers.forEach((manager) => manager.dispose())
  assert.ok(fdsAtMost(fds) <= fds)
  assert.equal(threadsAtMost('rkllm-pressure', 0), 0)
})

test('200 managers in a row share their threads and descriptors', () => {
  const fds = openFds()
  let most = 0
  for (let i = 0; i < 200; i++) {
    const manager = new MemoryManager({ backend, device })
    manager.allocateNPUMemory(4096)
    manager.allocateNPUMemory(2 * MiB)
    manager.dispose()
    most = Math.max(most, threadsOf('rkllm-').length)
  }
  // One for pressure, and one that frees; another may start while that one is not yet idle.
  assert.ok(most <= 12, `${most} threads: ${threadsOf('rkllm-')}`)
  assert.ok(fdsAtMost(fds) <= fds)
  assert.equal(threadsAtMost('rkllm-', 0), 0)
})

test('pressure events keep neither the process nor a dropped manager alive', () => {
  const { result } = runChild('pressure-holds-nothing.mjs', { flags: ['--expose-gc'] })
  assert.deepEqual(result, { collected: true })
})
