'use strict'

// A small soak: allocates, writes, syncs, checks and frees at random, for some seconds.

const { dateNow, setImmediate } = require('../../core/runtime.js')
const { expect, fill, randomNumbers, verify } = require('./pattern.js')

/** @typedef {import('./checks.js').Context} Context */

const [KiB, MiB] = [1024, 2 ** 20]
const MAX_LIVE = 96

/** @param {Context} context */
async function soak({ manager, largest, seconds }) {
  const budget = Math.min(32 * MiB, largest)
  const pool = manager.createMemoryPool({
    name: 'selftest-soak', kind: 'npu', initialSize: MiB, maxSize: Math.min(8 * MiB, largest),
  })
  const random = randomNumbers(51)
  /** @type {Array<{ buffer: ArrayBuffer, seed: number }>} */
  const live = []
  let [steps, bytes, held, peak] = [0, 0, 0, 0]
  const free = (/** @type {number} */ at) => {
    const [{ buffer, seed }] = live.splice(at, 1)
    manager.syncFromDevice(buffer)
    verify(new Uint8Array(buffer), seed, `buffer ${seed} of the soak`)
    held -= buffer.byteLength
    manager.deallocate(buffer)
  }
  const end = dateNow() + 1000 * seconds
  while (dateNow() < end) {
    const size = 1 + random(2 ** (8 + random(14)))
    while (live.length >= MAX_LIVE || held + size > budget) free(random(live.length))
    const fromPool = size <= 64 * KiB && random(2) === 0
    const buffer = fromPool
      ? pool.allocateBuffer(size)
      : manager.allocateNPUMemory(size, { dedicated: random(4) === 0 })
    const seed = steps++
    fill(new Uint8Array(buffer), seed)
    manager.syncToDevice(buffer)
    live.push({ buffer, seed })
    held += size
    bytes += size
    peak = Math.max(peak, held)
    if (live.length > 8 && random(2) === 0) free(random(live.length))
    // Finalizers and the driver's thread need turns of the event loop.
    if (steps % 64 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  while (live.length > 0) free(live.length - 1)
  const { allocated } = pool.stats()
  expect(allocated === 0, `the empty pool of the soak has ${allocated} bytes in use`)
  manager.destroyMemoryPool(pool)
  return { seconds, allocations: steps, bytes, peak }
}

module.exports = { soak }
