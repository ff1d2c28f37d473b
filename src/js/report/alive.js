'use strict'

// Reconstructs from a snapshot and the event log the memory that was live at each moment of the log: by tag over time,
// and the allocations at the peak.
//
// The snapshot is the truth at the end. Undoing the events from the last to the first leads to the start of the log,
// which may lie after the start of profiling; memory that is older than the log is in the snapshot or in a free.

const { slices } = require('../core/turns.js')
const { largest } = require('./largest.js')

/** The most points of the chart. */
const MAX_POINTS = 400
/** Tags with a colour; all others are one. */
const MAX_TAGS = 9
/** The most allocations at the peak that are listed. */
const MAX_LISTED = 1000

/**
 * @typedef {import('./holders.js').Holder} Holder
 * @typedef {import('../types/profiling.js').MemoryEvent} MemoryEvent
 * @typedef {Omit<Holder, 'buffer'>} Live
 */

/**
 * Memory by tag over time. `byTag` has a list of bytes for each of `tags`; `total` has those of all tags.
 *
 * @typedef {object} Alive
 * @property {number[]} time in ms since the start of profiling
 * @property {number[]} total
 * @property {Array<string | null>} tags those with the most bytes at any moment
 * @property {number[][]} byTag
 * @property {{ at: number, timeMs: number, bytes: number, count: number, largest: Live[] }} peak `at` is its point
 */

/** The live allocations, and their bytes by tag. */
class State {
  /** @type {Map<number, Live>} */
  live = new Map()
  /** @type {Map<string | null, number>} */
  byTag = new Map()
  total = 0

  /** @param {Live} holder */
  add(holder) {
    this.remove(holder.id)
    this.live.set(holder.id, holder)
    this.#count(holder.tag, holder.size)
  }

  /** @param {number} id */
  remove(id) {
    const before = this.live.get(id)
    if (before === undefined) return
    this.live.delete(id)
    this.#count(before.tag, -before.size)
  }

  /** @type {(tag: string | null, bytes: number) => void} */
  #count(tag, bytes) {
    this.total += bytes
    this.byTag.set(tag, (this.byTag.get(tag) ?? 0) + bytes)
  }
}

/** @type {(event: MemoryEvent) => boolean} */
const isFree = ({ type }) => type === 'free' || type === 'collect'

/** @type {(state: State, event: MemoryEvent, startedAt: number, stacks: Map<number, Live>) => void} */
function redo(state, event, startedAt, stacks) {
  if (event.type === 'allocate') state.add(liveOf(event, startedAt, stacks))
  else if (isFree(event)) state.remove(event.id)
}

/** @type {(event: MemoryEvent, startedAt: number | null, stacks: Map<number, Live>) => Live} */
function liveOf({ id, kind, size, tag, pool, timeUs }, startedAt, stacks) {
  const allocatedAt = startedAt === null ? null : startedAt + timeUs / 1000
  return { id, kind, size, tag, pool, stack: stacks.get(id)?.stack ?? null, allocatedAt }
}

/**
 * The state before the first event.
 *
 * @param {Holder[]} holders
 * @param {MemoryEvent[]} events
 * @param {Map<number, Live>} known the holders by id, which this function fills
 * @param {(event: MemoryEvent) => boolean} isLate whether an event may be later than the snapshot
 */
async function startOf(holders, events, known, isLate) {
  /** @type {Map<number, MemoryEvent>} */
  const last = new Map()
  for await (const slice of slices(events)) for (const event of slice) last.set(event.id, event)
  const state = new State()
  for await (const slice of slices(holders)) {
    for (const holder of slice) {
      known.set(holder.id, holder)
      const event = last.get(holder.id)
      // Freed between the snapshot and the log: its free adds it again.
      if (event === undefined || !isFree(event)) state.add(holder)
    }
  }
  for await (const slice of slices(events)) {
    for (const event of slice)
      if (event.type === 'allocate' && isLate(event) && last.get(event.id) === event)
        state.add(liveOf(event, null, known))
  }
  for await (const slice of slices([...events].reverse())) {
    for (const event of slice) {
      if (event.type === 'allocate') state.remove(event.id)
      else if (isFree(event)) state.add(liveOf(event, null, known))
    }
  }
  return state
}

/**
 * The events after which the chart has a point: of each stretch of time the one with the most bytes, and the last.
 *
 * @param {MemoryEvent[]} events
 * @param {Float64Array} totals
 */
async function pointsOf(events, totals) {
  const [first, end] = [events[0].timeUs, events[events.length - 1].timeUs]
  const stretch = Math.max(1, (end - first) / MAX_POINTS)
  /** @type {Map<number, number>} */
  const chosen = new Map()
  let at = 0
  for await (const slice of slices(events)) {
    for (const { timeUs } of slice) {
      const key = Math.floor((timeUs - first) / stretch)
      const before = chosen.get(key)
      if (before === undefined || totals[at] > totals[before]) chosen.set(key, at)
      at++
    }
  }
  return [...new Set([...chosen.values(), events.length - 1])].sort((a, b) => a - b)
}

/**
 * @param {Holder[]} holders
 * @param {Pick<import('../types/profiling.js').MemoryProfile, 'events' | 'startedAt'>} profile
 * @param {number} takenAt the time of the snapshot, in ms since 1970
 * @returns {Promise<Alive | null>} null without events
 */
async function aliveOverTime(holders, { events: all, startedAt }, takenAt) {
  /** @type {MemoryEvent[]} */
  const events = []
  for await (const slice of slices(all))
    for (const event of slice) if (event.type === 'allocate' || isFree(event)) events.push(event)
  if (events.length === 0) return null

  const known = new Map()
  const start = () => startOf(holders, events, known, ({ timeUs }) => startedAt + timeUs / 1000 >= takenAt)
  // The first pass finds the peak and the largest tags, the second one describes them.
  const state = await start()
  const totals = new Float64Array(events.length)
  const most = new Map(state.byTag)
  let [at, peak] = [0, 0]
  const before = state.total
  for await (const slice of slices(events)) {
    for (const event of slice) {
      redo(state, event, startedAt, known)
      totals[at] = state.total
      if (totals[at] > totals[peak]) peak = at
      const bytes = state.byTag.get(event.tag) ?? 0
      if (bytes > (most.get(event.tag) ?? 0)) most.set(event.tag, bytes)
      at++
    }
  }
  const tags = [...most].sort((a, b) => b[1] - a[1]).slice(0, MAX_TAGS).map(([tag]) => tag)
  const points = await pointsOf(events, totals)

  const again = await start()
  const bytesOf = (/** @type {string | null} */ tag) => again.byTag.get(tag) ?? 0
  /** @type {Alive} */
  const alive = {
    time: [events[0].timeUs / 1000],
    total: [before],
    tags,
    byTag: tags.map((tag) => [bytesOf(tag)]),
    peak: { at: 0, timeMs: events[0].timeUs / 1000, bytes: before, count: again.live.size, largest: [] },
  }
  if (before > totals[peak]) await describePeak(alive.peak, again)
  let next = 0
  for (const point of points) {
    for await (const slice of slices(events.slice(next, point + 1))) {
      for (const event of slice) redo(again, event, startedAt, known)
    }
    next = point + 1
    alive.time.push(events[point].timeUs / 1000)
    alive.total.push(again.total)
    tags.forEach((tag, index) => alive.byTag[index].push(bytesOf(tag)))
    if (point !== peak || before > totals[peak]) continue
    Object.assign(alive.peak, { at: alive.time.length - 1, timeMs: events[point].timeUs / 1000, bytes: again.total })
    await describePeak(alive.peak, again)
  }
  return alive
}

/** @type {(peak: Alive['peak'], state: State) => Promise<void>} */
async function describePeak(peak, { live }) {
  peak.count = live.size
  peak.largest = (await largest([...live.values()], MAX_LISTED)).sort((a, b) => b.size - a.size)
}

module.exports = { aliveOverTime }
