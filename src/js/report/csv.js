'use strict'

// Writes the event log: a CSV with the six columns of RAPIDS Memory Manager (RMM), followed by columns of
// this package.
//
// RMM's parser accepts three actions only, and its replay ignores "allocate failure". Events that RMM cannot replay are
// written with that action: grow, trim and move, and a free whose allocation is not in the log. The column `Type` has
// the real type. RMM ends a row at every line break, so line breaks in names are escaped.

const { slices } = require('../core/turns.js')
const { EXTRA_COLUMNS, RMM_COLUMNS } = require('../replay/event-log.js')

/**
 * @typedef {import('../types/profiling.js').MemoryEvent} MemoryEvent
 * @typedef {import('../types/profiling.js').MemoryProfile} MemoryProfile
 */

const DAY_US = 24 * 3600e6

/** @type {Record<string, string>} */
const ESCAPES = { '\\': '\\\\', '\n': '\\n', '\r': '\\r' }
/**
 * Writes a name: empty for none, in quotes if it is empty or has commas, quotes or blanks.
 *
 * @param {string | null | undefined} name
 */
function quoted(name) {
  if (name === null || name === undefined) return ''
  const line = name.replace(/[\\\n\r]/g, (character) => ESCAPES[character])
  return line === '' || /[",\s]/.test(line) ? `"${line.replaceAll('"', '""')}"` : line
}

/**
 * Formats the time of day, UTC, as RMM does: "14:03:07.000250".
 *
 * @param {number} us
 */
function timeOfDay(us) {
  const two = (/** @type {number} */ number) => String(Math.floor(number)).padStart(2, '0')
  const time = Math.floor(us) % DAY_US
  const [hours, minutes, seconds] = [time / 3600e6, (time / 60e6) % 60, (time / 1e6) % 60].map(two)
  return `${hours}:${minutes}:${seconds}.${String(time % 1e6).padStart(6, '0')}`
}

/**
 * Writes the events of a profile as a log.
 *
 * @param {Pick<MemoryProfile, 'events' | 'startedAt'>} profile
 */
async function* eventLog({ events, startedAt }) {
  const startUs = Math.round(startedAt * 1000)
  const live = new Set()
  const rmmActionOf = (/** @type {MemoryEvent} */ { type, id }) => {
    if (type === 'allocate') {
      live.add(id)
      return 'allocate'
    }
    return (type === 'free' || type === 'collect') && live.delete(id) ? 'free' : 'allocate failure'
  }
  const row = (/** @type {MemoryEvent} */ event) => {
    const { type, timeUs, id, kind, size, tag, pool, thread = 0 } = event
    const rmmFields = [thread, timeOfDay(startUs + timeUs), rmmActionOf(event), `0x${id.toString(16)}`, size, 0]
    return `${[...rmmFields, type, timeUs, kind, quoted(tag), quoted(pool), id].join()}\n`
  }
  yield `${[...RMM_COLUMNS, ...EXTRA_COLUMNS].join()}\n`
  for await (const slice of slices(events)) yield slice.map(row).join('')
}

module.exports = { eventLog }
