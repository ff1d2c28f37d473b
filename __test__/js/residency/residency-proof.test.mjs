/** Whether memory comes back after an unload in this process. RKLLM_TEST_CYCLES=1000 for a long run. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import gc from '../../../src/js/core/gc.js'
import { MiB, notOn, rejects } from '../../support/helpers.mjs'
import { reservedFor, residency, statsOf } from '../../support/residency.mjs'

/** Collects the garbage of earlier tests, whose memory would be taken for the model's. */
async function settle() {
  for (let round = 0; round < 3; round++) {
    gc.collectGarbage()
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

const CYCLES = Number(process.env.RKLLM_TEST_CYCLES ?? 3)

const skip = notOn({ bun: 'it gives memory back late' })

test(`memory that a library keeps is told from memory that is back, in ${CYCLES} cycles`, { skip }, async (t) => {
  await settle()
  const SIZE = 96 * MiB
  // Stands for a library: what it keeps stays in the process, and its next load uses it again.
  let library = null
  let keeps = false
  const load = () => {
    library ??= Buffer.alloc(SIZE, 1)
    return {}
  }
  const unload = () => {
    if (!keeps) library = null
  }
  const models = residency(t, { chat: { ramBytes: 2 * SIZE, npuBytes: 0, load, unload } })
  const stuck = []
  models.on('stuck', (event) => stuck.push(event))
  let expected = 0
  // The library keeps its memory at the first unload and at the next, at which the load took nothing new. Then it
  // drops the memory in use, and before that unload frees nothing. Last it keeps none.
  const kinds = ['keeps', 'keeps', 'drops', 'keeps', 'gives', 'drops', 'gives', 'gives']
  for (let cycle = 0; cycle < CYCLES; cycle++) {
    const kind = kinds[cycle % kinds.length]
    keeps = kind === 'keeps'
    await models.use('chat', () => 1)
    if (kind === 'drops') library = null
    await models.evict('chat')
    await new Promise((resolve) => setImmediate(resolve))
    const { state, bytes } = statsOf(models, 'chat')
    assert.equal(state, keeps ? 'stuck' : 'cold', `cycle ${cycle}: ${kind}`)
    assert.equal(stuck.length, keeps ? ++expected : expected)
    assert.equal(bytes.reserved, bytes.stuck)
    if (!keeps) continue
    assert.deepEqual([stuck.at(-1).name, stuck.at(-1).keptBy], ['chat', 'library'])
    assert.ok(Math.abs(bytes.stuck - SIZE) < SIZE / 4, `${bytes.stuck} of ${SIZE} are kept`)
    if (cycle > 0) continue
    const { message } = await rejects(models.evict('chat'), 'ERR_DEVICE_IO')
    assert.match(message, /its library keeps/)
    // The next load uses it, and nothing is counted twice.
    await models.preload('chat')
    assert.equal(reservedFor(models), 2 * SIZE)
  }
})

test('memory that comes back late ends the wait for it', { skip }, async (t) => {
  await settle()
  const library = { bytes: null }
  const load = () => void (library.bytes = Buffer.alloc(96 * MiB, 1))
  const models = residency(t, { chat: { ramBytes: 128 * MiB, load, unload: () => {} } })
  await models.preload('chat')
  await models.evict('chat')
  assert.equal(statsOf(models, 'chat').state, 'stuck')
  library.bytes = null
  // The collector of the engine takes it at its time.
  for (let turn = 0; turn < 100 && statsOf(models, 'chat').state === 'stuck'; turn++) {
    models.manager.optimizeMemory()
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  assert.equal(statsOf(models, 'chat').state, 'cold')
  assert.equal(library.bytes, null)
})
