/**
 * Memory that the garbage collector frees, or that the program frees while the runtime holds a pointer to it. Each test
 * runs in a child, because a failure may crash the process.
 */

import assert from 'node:assert/strict'
import { totalmem } from 'node:os'
import { test } from 'node:test'

import { GiB, hasDetachKeys, needsCommand, needsSimulated, runChild } from '../../support/helpers.mjs'

test('the garbage collector frees: buffers dropped by the program are gone after the event loop turned', () => {
  const { result } = runChild('collected.mjs', { flags: ['--expose-gc'] })
  assert.equal(result.liveBefore, 200)
  assert.deepEqual(result.after, { liveAllocations: 0, npuUsed: 0, systemUsed: 0 })
  assert.equal(result.frees, 200)
  assert.equal(result.objects, 0)
  assert.equal(result.fdsLeft, 0)
  assert.equal(result.keptByView, true, 'a view keeps its buffer alive')
  assert.equal(result.outlivedManager, true, 'a buffer outlives a manager that was dropped')
})

test('a loop that allocates 64 MiB buffers and drops them meets a clear error', { skip: needsSimulated }, () => {
  const { result } = runChild('drop-loop.mjs', { flags: ['--expose-gc'] })
  // 64 buffers of 64 MiB would fill a domain of 4 GiB if its first page were usable. No finalizer ran in between: the
  // event loop did not turn.
  if (totalmem() > 6 * GiB) {
    assert.equal(result.code, 'ERR_IOVA_EXHAUSTED')
    assert.equal(result.allocated, 63)
  } else {
    // A small machine has less RAM than a domain has addresses.
    assert.equal(result.code, 'ERR_OUT_OF_MEMORY')
    assert.ok(result.allocated < 63)
  }
  assert.match(result.message, /64 MiB/)
  assert.match(result.hint, /deallocate/)
  assert.equal(result.afterTurning, 'allocated', 'once the loop turned there is room again')
})

for (const how of ['objects', 'slices']) {
  test(`freeing memory under an operation of the runtime corrupts no memory: ${how}`, () => {
    const { result } = runChild('in-flight.mjs', { args: ['operations', how] })
    assert.equal(result.neighbourIntact, true, 'memory allocated afterwards was written by a stale operation')
    assert.ok(result.rounds > 0)
  })

  test(`freeing memory under a pending read corrupts no memory: ${how}`, { skip: needsCommand('mkfifo') }, () => {
    const { result } = runChild('in-flight.mjs', { args: ['waiting-read', how] })
    assert.equal(result.neighbourIntact, true, 'memory allocated afterwards got the data of a stale read')
    assert.equal(result.rounds, 2)
  })
}

test('a buffer that must not be detached is refused, not forced', () => {
  const { result } = runChild('untransferable.mjs')
  if (result.attached) {
    assert.equal(result.code, 'ERR_BUFFER_BUSY')
    assert.equal(result.intact, true)
    assert.equal(result.live, 1)
  } else {
    // Without a detach key deallocate just works.
    assert.equal(hasDetachKeys, false)
    assert.equal(result.live, 0)
  }
})
