/** The memory that was alive at each moment of a log, against a model that was there. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { MemoryManager } from '../../../index.js'
import aliveModule from '../../../src/js/report/alive.js'
import largestModule from '../../../src/js/report/largest.js'
import { random } from '../../browser/sample.mjs'

const { aliveOverTime } = aliveModule
const KiB = 1024

const holder = (id, size, tag) => ({ id, size, tag, kind: 'npu', pool: null, stack: null, allocatedAt: 0 })

/** Runs a random program whose log begins in its middle. Returns the totals after each event, and what a report has. */
function program(seed, { steps = 600, logged = 400 } = {}) {
  const next = random(seed)
  const live = new Map()
  const events = []
  const states = []
  for (let at = 0; at < steps; at++) {
    const ids = [...live.keys()]
    let event
    if (ids.length > 0 && next() < 0.48) {
      const id = ids[Math.floor(next() * ids.length)]
      event = { ...live.get(id), type: next() < 0.5 ? 'free' : 'collect' }
      live.delete(id)
    } else {
      const id = at + 1
      const tag = ['a', 'b', null][Math.floor(next() * 3)]
      event = { ...holder(id, 1 + Math.floor(next() * 64 * KiB), tag), type: 'allocate' }
      live.set(id, event)
    }
    events.push({ ...event, timeUs: at * 1000 })
    states.push(new Map(live))
  }
  const from = steps - logged
  const before = states[from - 1]
  return { holders: [...live.values()], events: events.slice(from), states: states.slice(from), before }
}

const sum = (state, tag) =>
  [...state.values()].filter((one) => tag === undefined || one.tag === tag).reduce((all, { size }) => all + size, 0)

test('every point, the tags and the peak are those of the program, also before the log', async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const { holders, events, states, before } = program(seed)
    const alive = await aliveOverTime(holders, { events, startedAt: 0 }, 1e9)
    const totals = [before, ...states].map((state) => sum(state))
    const most = Math.max(...totals)
    assert.equal(alive.peak.bytes, most)
    const atPeak = [before, ...states][totals.indexOf(most)]
    assert.equal(alive.peak.count, atPeak.size)
    assert.deepEqual(new Set(alive.peak.largest.map(({ id }) => id)), new Set(atPeak.keys()))
    assert.equal(alive.total[alive.peak.at], most)
    assert.ok(alive.time.length <= 402)
    assert.deepEqual(new Set(alive.tags), new Set(['a', 'b', null]))
    alive.time.forEach((timeMs, point) => {
      const state = point === 0 ? before : states[events.findIndex(({ timeUs }) => timeUs === timeMs * 1000)]
      assert.equal(alive.total[point], sum(state))
      alive.tags.forEach((tag, at) => assert.equal(alive.byTag[at][point], sum(state, tag)))
    })
  }
})

test('events between the snapshot and the log are undone and done', async () => {
  const events = [
    { ...holder(1, 100, 'a'), type: 'allocate', timeUs: 1000 },
    { ...holder(2, 7, 'b'), type: 'allocate', timeUs: 2000 },
    // The snapshot, at 2.5 ms, has 1 and 2.
    { ...holder(1, 100, 'a'), type: 'free', timeUs: 3000 },
    { ...holder(3, 50, 'c'), type: 'allocate', timeUs: 4000 },
  ]
  const { total, peak } = await aliveOverTime([holder(1, 100, 'a'), holder(2, 7, 'b')], { events, startedAt: 0 }, 2.5)
  assert.deepEqual(total, [0, 100, 107, 7, 57])
  assert.deepEqual(peak.largest.map(({ id }) => id), [1, 2])
})

test('many tags are the nine largest and the rest; no event is no chart', async () => {
  const events = Array.from({ length: 40 }, (_, at) => ({
    ...holder(at, at + 1, `tag ${at}`), type: 'allocate', timeUs: at * 1000,
  }))
  const { tags, byTag, total } = await aliveOverTime([], { events, startedAt: 0 }, 1e9)
  assert.deepEqual(tags, Array.from({ length: 9 }, (_, at) => `tag ${39 - at}`))
  assert.equal(total.at(-1), 820)
  assert.equal(byTag.reduce((all, column) => all + column.at(-1), 0), 324)
  const grown = [{ ...holder(1, 1, 'a'), type: 'grow', timeUs: 1 }]
  for (const none of [[], grown]) assert.equal(await aliveOverTime([], { events: none, startedAt: 0 }, 0), null)
})

test('of a real manager: the peak is the bytes that it had', async () => {
  const manager = new MemoryManager({ backend: 'simulated', profiling: true })
  const old = manager.allocateNPUMemory(64 * KiB, { tag: 'old' })
  const pool = manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: 1 << 20 })
  const taken = Array.from({ length: 10 }, () => pool.allocate(10 * KiB, { tag: 'block' }))
  taken.slice(3).forEach((block) => block.free())
  manager.deallocate(old)
  const { events, startedAt } = manager.getMemoryProfile()
  const { pools, takenAt } = manager.takeSnapshot()
  const blocks = pools[0].chunkMaps[0].blocks.filter(({ id }) => id !== null)
  const holders = blocks.map((block) => ({ ...block, kind: 'system' }))
  const { peak, total } = await aliveOverTime(holders, { events, startedAt }, takenAt)
  assert.deepEqual([peak.bytes, peak.count, total.at(-1)], [164 * KiB, 11, 30 * KiB])
  manager.dispose()
})

test('the largest of a long list, in its order', async () => {
  const next = random(3)
  const list = Array.from({ length: 700 }, (_, id) => ({ id, size: Math.floor(next() * 60) }))
  for (const most of [0, 1, 10, 333, 699, 700, 900]) {
    const found = await largestModule.largest(list, most)
    const expected = [...list].sort((a, b) => b.size - a.size).slice(0, most)
    assert.deepEqual(found.map(({ size }) => size).sort((a, b) => b - a), expected.map(({ size }) => size))
    assert.deepEqual(found, list.filter((entry) => found.includes(entry)))
  }
})
