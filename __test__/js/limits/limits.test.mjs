/** Exhaustion of address space, CMA, kernel objects, descriptors and RAM: an error with figures, and then recovery. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import os from 'node:os'

import { MemoryError } from '../../../index.js'
import {
  assertNothingLeft, GiB, KiB, MiB, needsCommand, needsSimulated, open, refuses, runChild,
} from '../../support/helpers.mjs'

/** Allocates until it is refused. */
function fill(manager, size, options) {
  const buffers = []
  for (;;) {
    try {
      buffers.push(manager.allocateNPUMemory(size, options))
    } catch (error) {
      return { buffers, error }
    }
  }
}

test(
  'a full IOMMU domain: ERR_IOVA_EXHAUSTED with figures, and the next domain has room',
  { skip: needsSimulated },
  (t) => {
    const manager = open(t, { simulated: { domains: 2, domainBytes: 64 * MiB } })
    const { buffers, error } = fill(manager, 4 * MiB)
    assert.equal(
      refuses(() => {
        throw error
      }, 'ERR_IOVA_EXHAUSTED'),
      error,
    )
    assert.ok(buffers.length === 15 || buffers.length === 16, `${buffers.length} buffers of 4 MiB in 64 MiB`)
    assert.equal(error.requested, 4 * MiB)
    assert.ok(error.available < 64 * MiB - (buffers.length - 1) * 4 * MiB)
    assert.ok(error.largestFree < 4 * MiB)
    assert.equal(error.scope, 'domain:0')
    assert.ok(error.hint)

    const elsewhere = manager.allocateNPUMemory(4 * MiB, { iommuDomain: 1 })
    const { domains } = manager.getNPUMemoryStats()
    assert.deepEqual(
      domains.map(({ used }) => used),
      [buffers.length * 4 * MiB, 4 * MiB],
    )

    manager.deallocate(buffers.pop())
    buffers.push(manager.allocateNPUMemory(4 * MiB))
    for (const buffer of [...buffers, elsewhere]) manager.deallocate(buffer)
    assertNothingLeft(manager)
  },
)

test('fragmented address space: enough in total, too little in one piece', { skip: needsSimulated }, (t) => {
  const manager = open(t, { simulated: { domains: 1, domainBytes: 64 * MiB } })
  const { buffers } = fill(manager, MiB)
  for (let i = 0; i < buffers.length; i += 2) manager.deallocate(buffers[i])
  const error = refuses(() => manager.allocateNPUMemory(8 * MiB), 'ERR_IOVA_EXHAUSTED')
  assert.ok(error.available >= 8 * MiB, `available ${error.available}`)
  assert.ok(error.largestFree < 8 * MiB, `largest ${error.largestFree}`)
})

test('a full CMA area: ERR_OUT_OF_MEMORY', { skip: needsSimulated }, (t) => {
  const manager = open(t, { simulated: { soc: 'rk3566', domainBytes: 32 * MiB } })
  const { buffers, error } = fill(manager, 4 * MiB)
  assert.equal(error.code, 'ERR_OUT_OF_MEMORY')
  assert.equal(error.requested, 4 * MiB)
  assert.equal(error.scope, 'cma')
  assert.ok(error.hint)
  const { cmaTotal, cmaFree } = manager.getNPUMemoryStats()
  assert.equal(cmaTotal, 32 * MiB)
  assert.equal(cmaFree, 32 * MiB - buffers.length * 4 * MiB)
  buffers.forEach((buffer) => manager.deallocate(buffer))
  assertNothingLeft(manager)
})

test('the limit of kernel objects: ERR_TOO_MANY_FDS', { skip: needsSimulated }, (t) => {
  const manager = open(t, { simulated: { maxObjects: 10 } })
  const { buffers, error } = fill(manager, 4 * KiB)
  assert.equal(error.code, 'ERR_TOO_MANY_FDS')
  assert.equal(buffers.length, 10)
  assert.ok(error.hint)
  assert.equal(manager.getNPUMemoryStats().objects, 10)
  manager.deallocate(buffers.pop())
  manager.allocateNPUMemory(4 * KiB)
})

test('a failed allocation is counted and changes nothing else', { skip: needsSimulated }, (t) => {
  const manager = open(t, { simulated: { domainBytes: MiB, domains: 1 } })
  const before = manager.getNPUMemoryStats()
  refuses(() => manager.allocateNPUMemory(2 * MiB, { tag: 'too-much' }), 'ERR_OUT_OF_RANGE')
  const after = manager.getNPUMemoryStats()
  assert.equal(after.failedAllocations, before.failedAllocations + 1)
  for (const figure of ['used', 'peak', 'liveAllocations', 'totalAllocations', 'totalFrees', 'objects']) {
    assert.equal(after[figure], before[figure], figure)
  }
})

test('more RAM than there is: an error, and the process lives', (t) => {
  const manager = open(t)
  const error = refuses(() => manager.allocateSystemMemory(os.totalmem()), 'ERR_OUT_OF_MEMORY')
  assert.ok(error.requested >= os.totalmem())
  assert.ok(error.available >= 0)
  assert.ok(error.hint)
  assertNothingLeft(manager)
})

test('the real limit of descriptors: an error, and room again after a free', { skip: needsCommand('sh') }, () => {
  const { result } = runChild('few-descriptors.mjs')
  assert.equal(result.code, 'ERR_TOO_MANY_FDS')
  assert.ok(result.buffers > 20 && result.buffers < 200, `${result.buffers} buffers with 128 descriptors`)
  assert.ok(result.hint)
  assert.equal(result.again, true)
  assert.equal(result.left, 0)
  assert.equal(result.figures.total, os.totalmem())
  assert.ok(result.figures.rss > MiB)
  assert.equal(result.figures.maxFds, 128)
  // Inherited descriptors may lie above the limit.
  assert.ok(result.figures.openFds >= 128 && result.figures.openFds < 140, `${result.figures.openFds}`)
})

test('latencyMs delays the simulated driver', { skip: needsSimulated }, (t) => {
  const manager = open(t, { simulated: { latencyMs: 20 } })
  const start = performance.now()
  manager.deallocate(manager.allocateNPUMemory(4096))
  assert.ok(performance.now() - start >= 20)
})

test(
  'more than 4 GiB in one ArrayBuffer: it works, or says that this runtime has none',
  { skip: os.totalmem() < 12 * GiB && 'needs 12 GiB of RAM' },
  (t) => {
    const manager = open(t)
    try {
      const buffer = manager.allocateSystemMemory(5 * GiB)
      assert.equal(buffer.byteLength, 5 * GiB)
      manager.deallocate(buffer)
    } catch (error) {
      assert.ok(error instanceof MemoryError, error.stack)
      assert.equal(error.code, 'ERR_OUT_OF_RANGE')
      assert.match(error.hint, /4 GiB/)
    }
    assertNothingLeft(manager)
  },
)
