'use strict'

// Checks of pools and limits.

const { expect, fill, randomNumbers, refuses, verify } = require('./pattern.js')

/** @typedef {import('./checks.js').Context} Context */

const [KiB, MiB] = [1024, 2 ** 20]

/**
 * A random program of allocations and frees: each block keeps its own bytes, and the figures are exact.
 *
 * @param {Context} context
 */
function pools({ manager, largest }) {
  const initialSize = Math.min(4 * MiB, largest)
  const pool = manager.createMemoryPool({ name: 'selftest-pool', kind: 'npu', initialSize, maxSize: initialSize })
  const random = randomNumbers(41)
  /** @type {Array<{ block: import('../../types/blocks.js').MemoryBlock, seed: number, size: number }>} */
  const live = []
  let [requested, refused] = [0, 0]
  const free = (/** @type {number} */ at) => {
    const [{ block, seed, size }] = live.splice(at, 1)
    verify(new Uint8Array(block.buffer), seed, `block ${seed} of ${size} bytes`)
    block.free()
    requested -= size
  }
  const steps = 4000
  for (let step = 0; step < steps; step++) {
    if (live.length > 0 && random(100) < 45) free(random(live.length))
    else {
      const size = 1 + random(2 ** (4 + random(12)))
      try {
        const block = pool.allocate(size)
        live.push({ block, seed: step, size })
        fill(new Uint8Array(block.buffer), step)
        requested += size
      } catch (error) {
        if (/** @type {any} */ (error).code !== 'ERR_POOL_EXHAUSTED') throw error
        refused++
      }
    }
    if (step % 16 !== 0) continue
    const stats = pool.stats()
    expect(stats.requested === requested, `step ${step}: the pool counts ${stats.requested} bytes, not ${requested}`)
  }
  while (live.length > 0) free(live.length - 1)
  const { allocated } = pool.stats()
  expect(allocated === 0, `the empty pool has ${allocated} bytes in use`)
  manager.destroyMemoryPool(pool)
  return { steps, refused }
}

/**
 * A pool of movable blocks is compacted: the bytes move along, and one free piece is left.
 *
 * @param {Context} context
 */
function compaction({ manager }) {
  const pool = manager.createMemoryPool({ name: 'selftest-movable', kind: 'npu', initialSize: MiB })
  const blocks = Array.from({ length: 128 }, (_, seed) => {
    const block = pool.allocate(4 * KiB, { movable: true })
    fill(new Uint8Array(block.buffer), seed)
    return { block, seed }
  })
  const kept = blocks.filter(({ seed }) => seed % 3 === 0)
  for (const { block, seed } of blocks) if (seed % 3 !== 0) block.free()
  const { moves } = pool.defragment()
  for (const { block, seed } of kept) {
    verify(new Uint8Array(block.buffer), seed, `block ${seed}, after compaction`)
    block.free()
  }
  manager.destroyMemoryPool(pool)
  return { blocks: blocks.length, moves: moves.length }
}

/**
 * A limit refuses the first allocation beyond it, with the figures, and no other.
 *
 * @param {Context} context
 */
function limits({ manager }) {
  const [max, size] = [4 * MiB, 512 * KiB]
  manager.setMemoryLimits({ npu: { max } })
  /** @type {ArrayBuffer[]} */
  const buffers = []
  const error = refuses(
    () => {
      for (let count = 0; count <= max / size; count++)
        buffers.push(manager.allocateNPUMemory(size, { dedicated: true }))
    },
    ['ERR_MEMORY_LIMIT'],
    `an allocation beyond a limit of ${max} bytes`,
  )
  expect(buffers.length === max / size, `${buffers.length} of ${max / size} buffers fit below the limit`)
  expect(error.limit === max, `the error names the limit ${error.limit} in place of ${max}`)
  manager.deallocate(/** @type {ArrayBuffer} */ (buffers.pop()))
  buffers.push(manager.allocateNPUMemory(size, { dedicated: true }))
  for (const buffer of buffers) manager.deallocate(buffer)
  manager.setMemoryLimits({ npu: { max: null } })
  return { buffers: max / size }
}

module.exports = { compaction, limits, pools }
