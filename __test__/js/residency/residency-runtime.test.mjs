/** Workers that load the understudy of librkllmrt, and are killed: the driver keeps nothing of theirs. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { MemoryError } from '../../../index.js'
import { alive } from '../../kernel/guest/driver.mjs'
import { buildUnderstudy } from '../../runtime/build.mjs'
import { MiB, open, simulated } from '../../support/helpers.mjs'
import { randomOf } from '../../support/residency-world.mjs'
import { file, skip } from '../../support/understudy.mjs'
import { until } from '../../support/until.mjs'
import { killAtRandom, noProcess } from '../../support/worker-processes.mjs'

/** An emulated machine starts a process in seconds. */
const KILLS = Number(process.env.RKLLM_TEST_KILLS ?? (simulated ? 6 : 2))
const HEADER = '1.2'
const module = new URL('../../support/workers/understudy.mjs', import.meta.url)

test(`${KILLS} kills of workers with librkllmrt: requests settle, the driver has nothing left`, { skip }, async (t) => {
  const manager = open(t)
  const args = [buildUnderstudy(HEADER), HEADER, file]
  const definition = { ramBytes: 8 * MiB, npuBytes: 4 * MiB, worker: { module, args } }
  const names = ['a', 'b', 'c']
  const models = manager.createModelResidency({
    models: Object.fromEntries(names.map((name) => [name, definition])),
    limits: { ram: 20 * MiB },
  })
  const before = alive()
  const random = randomOf(Number(process.env.RKLLM_TEST_SEED ?? 1))
  const outcomes = { served: 0, ERR_DEVICE_LOST: 0, ERR_DEVICE_IO: 0 }
  let kills = 0
  const request = async () => {
    while (kills < KILLS || outcomes.served === 0) {
      try {
        const text = await models.use(names[random(3)], async (model) => {
          let found = ''
          for await (const part of model.generate('abc')) found += part
          return found
        })
        assert.ok(text.length > 0)
        outcomes.served++
      } catch (error) {
        assert.ok(error instanceof MemoryError, String(error))
        outcomes[error.code]++
      }
    }
  }
  const requests = [request(), request(), request()]
  await killAtRandom(models, { kills: KILLS, everyMs: 100, random, killed: () => kills++ })
  await Promise.all(requests)
  const { models: each, waiting } = models.stats()
  assert.deepEqual([waiting, each.map(({ leases }) => leases)], [0, [0, 0, 0]])
  await models.close()
  await noProcess()
  t.diagnostic(JSON.stringify(outcomes))
  assert.ok(Object.values(outcomes).every(Number.isInteger), JSON.stringify(outcomes))
  assert.deepEqual(manager.getMemoryUsage().reservations, [])
  // The kernel closes the files of a process a little after its end.
  await until(() => String(alive()) === String(before), () => `${alive()} live, and ${before} before`)
})
