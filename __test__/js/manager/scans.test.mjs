/** Counts work, not time: the live buffers that an operation visits beside many others. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import native from '../../../src/js/core/binding.js'
import { MiB, open } from '../../support/helpers.mjs'

/** Counts the calls of a method that `work` makes. */
function countCalls(object, method, work) {
  const original = object[method]
  let calls = 0
  object[method] = function (...values) {
    calls++
    return original.apply(this, values)
  }
  try {
    work()
  } finally {
    object[method] = original
  }
  return calls
}

test('a pool ends without a look at the buffers of others', (t) => {
  const manager = open(t)
  const others = Array.from({ length: 1000 }, () => manager.allocateNPUMemory(4096))
  const pool = manager.createMemoryPool({ name: 'request', kind: 'system', initialSize: MiB })
  const exposed = () => Array.from({ length: 3 }, () => pool.allocate(100).buffer)
  const [reset, destroyed] = [exposed(), () => exposed()]
  assert.equal(countCalls(WeakRef.prototype, 'deref', () => pool.reset()), 3)
  assert.deepEqual(reset.map((buffer) => buffer.byteLength), [0, 0, 0])
  const left = destroyed()
  assert.equal(countCalls(WeakRef.prototype, 'deref', () => manager.destroyMemoryPool(pool, { force: true })), 3)
  assert.deepEqual(left.map((buffer) => buffer.byteLength), [0, 0, 0])
  assert.ok(others.every((buffer) => buffer.byteLength === 4096))
})

test('a new buffer visits two others, however many are live', (t) => {
  const manager = open(t)
  const live = []
  const allocate = () => live.push(manager.allocateNPUMemory(4096))
  const visits = Array.from({ length: 1500 }, () => countCalls(native, 'isLive', allocate))
  assert.equal(Math.max(...visits), 2)
})

test('the statistics visit as many objects, however many buffers are live', (t) => {
  const manager = open(t)
  const live = []
  const more = (count) => {
    while (live.length < count) live.push(manager.allocateNPUMemory(4096), manager.allocateSystemMemory(4096))
  }
  const iterators = [new Map(), new Set()].map((of) => Object.getPrototypeOf(of.values()))
  const visits = () => {
    const stats = () => [manager.getMemoryStats(), manager.getMemoryUsage()]
    return [...iterators.map((of) => countCalls(of, 'next', stats)), countCalls(WeakRef.prototype, 'deref', stats)]
  }
  more(20)
  const few = visits()
  more(2000)
  assert.deepEqual(visits(), few)
  assert.ok(manager.getMemoryStats().liveAllocations >= 2000)
  // The counters count: a walk over a map of as many is seen.
  const walk = () => [...new Map(live.entries()).values()]
  assert.equal(countCalls(iterators[0], 'next', walk), live.length + 1)
})
