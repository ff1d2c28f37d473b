'use strict'

// Writes the trace event format, which Perfetto and chrome://tracing open: counters, and a bar for each allocation's
// lifetime.

/** @type {[name: string, figure: 'npuUsed' | 'systemUsed' | 'poolReserved'][]} */
const COUNTERS = [
  ['NPU used', 'npuUsed'],
  ['System used', 'systemUsed'],
  ['Pools reserved', 'poolReserved'],
]

/**
 * @param {import('../types/profiling.js').MemoryProfile} profile
 * @returns {string}
 */
function trace({ events, timeline, startedAt, droppedEvents }) {
  const pid = process.pid
  const threads = new Set([0])
  /** @type {object[]} */
  const traceEvents = []
  const emit = (/** @type {object} */ event) => traceEvents.push({ pid, ...event })

  for (const point of timeline) {
    for (const [name, figure] of COUNTERS) {
      emit({ name, ph: 'C', ts: point.timeMs * 1000, tid: 0, args: { bytes: point[figure] } })
    }
  }

  // Block ids are reused, so each lifetime gets its own number.
  const lives = new Map()
  let born = 0
  for (const { type, timeUs: ts, id, kind, size, tag, pool, thread: tid = 0 } of events) {
    threads.add(tid)
    const args = { id, kind, size, tag, pool }
    const name = tag ?? `${kind} memory`
    if (type === 'allocate') {
      const life = { name, cat: 'allocation', id: `0x${(++born).toString(16)}`, tid }
      lives.set(id, life)
      emit({ ...life, ph: 'b', ts, args })
    } else if ((type === 'free' || type === 'collect') && lives.has(id)) {
      emit({ ...lives.get(id), ph: 'e', ts, args: { by: type } })
      lives.delete(id)
    } else {
      emit({ name: type, cat: 'event', ph: 'i', s: 't', ts, tid, args })
    }
  }

  const names = [
    { name: 'process_name', ph: 'M', pid, tid: 0, args: { name: '@rkllmjs/memory' } },
    ...[...threads].map((tid) => ({
      name: 'thread_name',
      ph: 'M',
      pid,
      tid,
      args: { name: tid === 0 ? 'memory' : `thread ${tid}` },
    })),
  ]
  const otherData = { startedAt: new Date(startedAt).toISOString(), droppedEvents }
  return JSON.stringify({ displayTimeUnit: 'ms', otherData, traceEvents: [...names, ...traceEvents] })
}

module.exports = { trace }
