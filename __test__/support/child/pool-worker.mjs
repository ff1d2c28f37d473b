/** One of several workers on one pool. Allocates and frees slices at random; no two live slices may overlap. */

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { parentPort, workerData } from 'node:worker_threads'

// A MemoryPool belongs to its thread; the native pool does not.
const native = createRequire(import.meta.url)('../../../src/js/core/binding.js')
const { manager, pool, base, cells, mark, steps, largest } = workerData
const hot = native.fastCalls()
const [numbers, words] = [new Float64Array(hot.buffer), new Int32Array(hot.buffer)]
const CELL = 64

let seed = mark * 7919
const random = (below) => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) % below

const live = []
for (let step = 0; step < steps; step++) {
  if (live.length < 50 || (live.length < 150 && random(2))) {
    const slice = take(1 + random(largest))
    if (slice) live.push(slice)
  } else {
    give(live.splice(random(live.length), 1)[0])
  }
}
live.forEach(give)
parentPort.postMessage('done')

function take(size) {
  ;[numbers[0], numbers[1], numbers[2]] = [pool, size, CELL]
  try {
    hot.allocate()
  } catch (error) {
    assert.equal(error.code, 'ERR_POOL_EXHAUSTED')
    return undefined
  }
  const [first, last] = [(numbers[3] - base) / CELL, Math.floor((numbers[3] - base + size - 1) / CELL)]
  const slice = { name: words.slice(10, 14), first, last, buffer: undefined }
  for (const cell of new Set([first, (first + last) >> 1, last])) {
    assert.equal(Atomics.compareExchange(cells, cell, 0, mark), 0, 'another slice has this byte')
  }
  // Exposes some of them as ArrayBuffers.
  if (random(20) === 0) {
    slice.buffer = native.poolExpose(pool, ...slice.name)[0]
    new Uint8Array(slice.buffer).fill(mark)
  }
  return slice
}

function give({ name, first, last, buffer }) {
  if (buffer) assert.ok(new Uint8Array(buffer).every((byte) => byte === mark), 'another worker wrote here')
  for (const cell of new Set([first, (first + last) >> 1, last])) {
    assert.equal(Atomics.compareExchange(cells, cell, mark, 0), mark)
  }
  if (buffer) {
    native.deallocate(manager, buffer)
  } else {
    numbers[0] = pool
    words.set(name, 10)
    hot.free()
  }
}
