'use strict'

// Checks of cache maintenance without a job on the NPU. The CPU is the only observer, and an invalidation the probe:
// lines that `syncToDevice` did not bring to memory come back with their old bytes when `syncFromDevice` drops them
// from the cache.

const { byteOf, expect, fill, randomNumbers, verify, verifyEqual } = require('./pattern.js')

/** @typedef {import('./checks.js').Context} Context */

const [KiB, MiB] = [1024, 2 ** 20]
/** The line of the caches of all supported processors. */
const LINE = 64

/**
 * Whole buffers, smaller and larger than the caches: bytes that were synced to the device survive the invalidation.
 *
 * @param {Context} context
 */
function wholeBuffers({ manager, largest }) {
  const wanted = [4 * KiB, 256 * KiB, 8 * MiB].filter((size) => size <= largest)
  for (const size of wanted) {
    const buffer = manager.allocateNPUMemory(size, { dedicated: true })
    const bytes = new Uint8Array(buffer)
    for (let round = 1; round <= 3; round++) {
      fill(bytes, round)
      manager.syncToDevice(buffer)
      manager.syncFromDevice(buffer)
      verify(bytes, round, `round ${round} of ${size} bytes, after syncToDevice and syncFromDevice`)
    }
    manager.deallocate(buffer)
  }
  return { sizes: wanted.length }
}

/**
 * Random ranges of any alignment: a synced range survives the invalidation of the whole buffer, and the invalidation
 * of a range leaves the lines beside it alone.
 *
 * @param {Context} context
 */
function ranges({ manager }) {
  const size = 64 * KiB
  const buffer = manager.allocateNPUMemory(size)
  const bytes = new Uint8Array(buffer)
  const model = new Uint8Array(size)
  const random = randomNumbers(21)
  const rounds = 400
  for (let round = 0; round < rounds; round++) {
    const from = random(size - 1)
    const length = 1 + random(Math.min(size - from, 3000))
    for (let at = from; at < from + length; at++) bytes[at] = model[at] = byteOf(round, at)
    manager.syncToDevice(buffer, from, length)
    if (round % 2 === 0) manager.syncFromDevice(buffer)
    else manager.syncFromDevice(buffer, from, length)
    verifyEqual(bytes, model, `round ${round}, after syncToDevice of ${length} bytes at ${from}`)
  }
  manager.deallocate(buffer)
  return { rounds }
}

/**
 * Slices that share a kernel object: an invalidation of one keeps the unsynced bytes of its neighbours.
 *
 * @param {Context} context
 */
function neighbours({ manager }) {
  const random = randomNumbers(31)
  const pool = manager.createMemoryPool({ name: 'selftest-slices', kind: 'npu', initialSize: 256 * KiB })
  const slices = Array.from({ length: 64 }, (_, at) =>
    at % 2 === 0 ? pool.allocateBuffer(1 + random(700)) : manager.allocateNPUMemory(1 + random(700)),
  )
  const rounds = 64
  for (let round = 0; round < rounds; round++) {
    const chosen = slices[random(slices.length)]
    for (const [at, slice] of slices.entries()) fill(new Uint8Array(slice), round * 100 + at)
    manager.syncToDevice(chosen)
    manager.syncFromDevice(chosen)
    for (const [at, slice] of slices.entries())
      verify(new Uint8Array(slice), round * 100 + at, `slice ${at}, after the sync of slice ${slices.indexOf(chosen)}`)
  }
  for (const slice of slices) manager.deallocate(slice)
  manager.destroyMemoryPool(pool)
  return { slices: slices.length, rounds }
}

/**
 * Counts the lines that an invalidation without a sync drops. Caches that are coherent with the device drop none; no
 * count is a failure.
 *
 * @param {Context} context
 */
function droppedLines({ manager }) {
  const size = 64 * KiB
  const lines = size / LINE
  const buffer = manager.allocateNPUMemory(size, { dedicated: true })
  const bytes = new Uint8Array(buffer)
  fill(bytes, 1)
  manager.syncToDevice(buffer)
  fill(bytes, 2)
  manager.syncFromDevice(buffer)
  let dropped = 0
  let torn = 0
  for (let line = 0; line < lines; line++) {
    const is = (/** @type {number} */ seed) => {
      for (let at = line * LINE; at < (line + 1) * LINE; at++) if (bytes[at] !== byteOf(seed, at)) return false
      return true
    }
    if (is(1)) dropped++
    else if (!is(2)) torn++
  }
  manager.deallocate(buffer)
  expect(torn === 0, `${torn} of ${lines} lines hold neither the synced nor the written bytes`)
  return { lines, dropped }
}

/**
 * Uncached memory: syncs change nothing.
 *
 * @param {Context} context
 */
function uncached({ manager, unsupported }) {
  let buffer
  try {
    buffer = manager.allocateNPUMemory(64 * KiB, { cacheable: false })
  } catch (error) {
    if (/** @type {any} */ (error).code !== 'ERR_UNSUPPORTED') throw error
    return unsupported(error)
  }
  const bytes = new Uint8Array(buffer)
  for (let round = 1; round <= 8; round++) {
    fill(bytes, round)
    manager.syncFromDevice(buffer)
    verify(bytes, round, `round ${round} in uncached memory`)
    manager.syncToDevice(buffer)
    verify(bytes, round, `round ${round} in uncached memory`)
  }
  manager.deallocate(buffer)
  return { rounds: 8 }
}

module.exports = { droppedLines, neighbours, ranges, uncached, wholeBuffers }
