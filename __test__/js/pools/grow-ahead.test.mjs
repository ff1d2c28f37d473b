/** Pools that grow in the background: `growAhead`. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

import { assertNothingLeft, MiB, needsSimulated, open, refuses } from '../../support/helpers.mjs'

/** Waits until `done()`. */
async function until(done) {
  for (let i = 0; i < 5000 && !done(); i++) await sleep(2)
  assert.ok(done())
}

test('a share that is none is refused, and no pool is created', (t) => {
  const manager = open(t)
  const create = (growAhead) => manager.createMemoryPool({ name: 'p', initialSize: MiB, growAhead })
  for (const share of [-0.1, 1, 25, NaN, Infinity]) refuses(() => create(share), 'ERR_OUT_OF_RANGE', share)
  for (const share of ['0.25', null, true]) refuses(() => create(share), 'ERR_INVALID_ARG_TYPE', share)
  const misspelt = { name: 'p', initialSize: MiB, growahead: 0.25 }
  assert.match(refuses(() => manager.createMemoryPool(misspelt), 'ERR_INVALID_ARG_TYPE').hint, /"growAhead"/)
  assertNothingLeft(manager)
  create(0)
})

test('a pool grows before it is full, and a request finds room', { skip: needsSimulated }, async (t) => {
  const manager = open(t, { simulated: { latencyMs: 500 } })
  const pool = await manager.createMemoryPoolAsync({
    name: 'p', initialSize: MiB, chunkSize: MiB, maxSize: 2 * MiB, growAhead: 0.25,
  })
  pool.allocate(MiB / 2)
  assert.equal(pool.stats().reserved, MiB)
  // Returns before the driver does.
  pool.allocate(MiB / 2)
  assert.deepEqual([pool.stats().chunks, pool.stats().grownAhead], [1, 0])
  await until(() => pool.stats().grownAhead === 1)
  assert.deepEqual([pool.stats().chunks, pool.stats().reserved], [2, 2 * MiB])
  // The pool is as large as it may be.
  pool.allocate(MiB)
  await nextTurn()
  const { grownAhead, failedAhead, reserved } = pool.stats()
  assert.deepEqual({ grownAhead, failedAhead, reserved }, { grownAhead: 1, failedAhead: 0, reserved: 2 * MiB })
  const listed = manager.getMemoryUsage().pools.find(({ name }) => name === 'p')
  assert.equal(listed.grownAhead, 1)
})

test('a growth that a limit refuses is counted, and throws nothing', async (t) => {
  const manager = open(t, { limits: { system: { max: MiB } } })
  const options = { name: 'p', kind: 'system', initialSize: MiB, chunkSize: MiB, maxSize: 8 * MiB, growAhead: 0.5 }
  const pool = manager.createMemoryPool(options)
  pool.allocate(0.75 * MiB)
  await until(() => pool.stats().failedAhead > 0)
  const { grownAhead, failedAllocations, reserved } = pool.stats()
  assert.deepEqual({ grownAhead, failedAllocations, reserved }, { grownAhead: 0, failedAllocations: 0, reserved: MiB })
})

test('the end of a pool, or of its manager, ends its growth', { skip: needsSimulated }, async (t) => {
  for (const end of ['destroy', 'dispose', 'disposeAsync']) {
    const manager = open(t, { simulated: { latencyMs: 20 } })
    const options = { name: 'p', initialSize: MiB, chunkSize: MiB, maxSize: 64 * MiB, growAhead: 0.9 }
    const pool = manager.createMemoryPool(options)
    pool.allocate(MiB)
    if (end !== 'destroy') {
      await manager[end]()
      continue
    }
    manager.destroyMemoryPool(pool, { force: true })
    assertNothingLeft(manager)
    await until(() => manager.getNPUMemoryStats().domains[0].used === 0)
    assertNothingLeft(manager)
  }
})
