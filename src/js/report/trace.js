'use strict'

// Writes the trace event format, which Perfetto and chrome://tracing open: counters, and a bar for each allocation's
// lifetime.

const { slices } = require('../core/turns.js')

/** @type {[name: string, figure: 'npuUsed' | 'systemUsed' | 'poolReserved'][]} */
const COUNTERS = [
  ['NPU used', 'npuUsed'],
  ['System used', 'systemUsed'],
  ['Pools reserved', 'poolReserved'],
]

/**
 * @param {import('../types/profiling.js').MemoryProfile} profile
 * @returns {AsyncGenerator<string>}
 */
async function* trace({ events, timeline, startedAt, droppedEvents }) {
  const pid = process.pid
  const threads = new Set([0])
  const otherData = { startedAt: new Date(startedAt).toISOString(), droppedEvents }
  const about = { pid, name: 'process_name', ph: 'M', tid: 0, args: { name: '@rkllmjs/memory' } }
  yield `{"displayTimeUnit":"ms","otherData":${JSON.stringify(otherData)},"traceEvents":[${JSON.stringify(about)}`

  let text = ''
  const emit = (/** @type {object} */ event) => (text += `,${JSON.stringify({ pid, ...event })}`)
  for await (const points of slices(timeline, COUNTERS.length)) {
    for (const point of points) {
      for (const [name, figure] of COUNTERS)
        emit({ name, ph: 'C', ts: point.timeMs * 1000, tid: 0, args: { bytes: point[figure] } })
    }
    yield text
    text = ''
  }

  // Each lifetime has a number of its own: a log of another program may use an id again.
  const lives = new Map()
  let born = 0
  for await (const slice of slices(events)) {
    for (const { type, timeUs: ts, id, kind, size, tag, pool, thread: tid = 0 } of slice) {
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
    yield text
    text = ''
  }

  for (const tid of threads)
    emit({ name: 'thread_name', ph: 'M', tid, args: { name: tid === 0 ? 'memory' : `thread ${tid}` } })
  yield `${text}]}`
}

module.exports = { trace }
