/**
 * One native pool, several threads. In JavaScript a pool belongs to the thread that made it; the native pool below it
 * does not.
 */

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { Worker } from 'node:worker_threads'

import { KiB, MiB } from '../../support/helpers.mjs'

const native = createRequire(import.meta.url)('../../../src/js/core/binding.js')

test('many workers use one pool: no two blocks overlap, and all bytes return', async () => {
  const { manager } = native.openManager('simulated', undefined, undefined, {})
  const size = 8 * MiB
  const pool = native.createPool(manager, { name: 'shared', initialSize: size, maxSize: size, npu: {} })
  const [buffer] = native.allocateFromPool(pool, 64, undefined, false, undefined)
  const base = Number(native.describe(manager, buffer).address)
  native.deallocate(manager, buffer)
  const cells = new Int32Array(new SharedArrayBuffer((size / 64) * 4))
  const workers = [1, 2, 3].map((mark) => {
    const workerData = { manager, pool, base, cells, mark, steps: 300_000, largest: 96 * KiB }
    return new Worker(new URL('../../support/child/pool-worker.mjs', import.meta.url), { workerData })
  })
  const exits = workers.map((worker) => once(worker, 'exit'))
  const said = await Promise.all(workers.map((worker) => once(worker, 'message')))
  assert.deepEqual(said.flat(), ['done', 'done', 'done'])
  await Promise.all(exits)
  const { liveAllocations, allocated, largestFree, reserved } = native.poolStats(pool)
  assert.deepEqual(
    { liveAllocations, allocated, largestFree },
    { liveAllocations: 0, allocated: 0, largestFree: reserved },
  )
  assert.ok(cells.every((cell) => cell === 0))
  native.closeManager(manager)
})
