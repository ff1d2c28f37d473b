/** Memory at each kind of end of its thread or process. Each test runs in a child. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'

import { inPiece, needsTransfer, runChild } from '../../support/helpers.mjs'

test('memory that moved to a worker lives there until the worker drops it', { skip: needsTransfer }, () => {
  const { result } = runChild('to-worker.mjs', { flags: ['--expose-gc'] })
  assert.deepEqual(result, {
    sumInWorker: 4096 * 11,
    shell: 'ERR_BUFFER_TRANSFERRED',
    liveWhileInWorker: 1,
    usedWhileInWorker: 4096,
    liveAfterwards: 0,
    usedAfterwards: 0,
  })
})

for (const end of inPiece(['natural', 'exit', 'throw', 'terminate'])) {
  test(`a worker that ends (${end}) frees its own memory and no other`, () => {
    const { result } = runChild('worker-end.mjs', { args: [end] })
    assert.equal(result.mineIntact, true)
    assert.deepEqual(result.fds, [])
    assert.equal(result.workers, 8)
  })
}

test('a worker that deallocates and ends in one turn withholds no addresses', () => {
  const { result } = runChild('worker-addresses.mjs')
  assert.equal(result.deallocate, 0)
  assert.equal(result['deallocate and exit'], 0)
  // The buffers may live on in another thread. On some runtimes no finalizer comes, or one that proves otherwise.
  assert.ok([0, 1, 2].includes(result.drop), result.drop)
})

for (const way of inPiece(['return', 'exit', 'uncaught', 'dispose-late'])) {
  test(`the process ends with live buffers (${way})`, () => {
    const child = spawnSync(
      process.execPath,
      [new URL('../../support/child/process-end.mjs', import.meta.url).pathname, way],
      { encoding: 'utf8' },
    )
    assert.equal(child.signal, null, child.stderr)
    assert.equal(child.status, way === 'uncaught' ? 1 : 0, child.stderr)
  })
}
