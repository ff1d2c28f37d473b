'use strict'

// Writes and parses the event log: a CSV with the six columns of RAPIDS Memory Manager (RMM), followed by columns of
// this package.
//
// RMM's parser accepts three actions only, and its replay ignores "allocate failure". Events that RMM cannot replay are
// written with that action: grow, trim and move, and a free whose allocation is not in the log. The column `Type` has
// the real type. RMM ends a row at every line break, so line breaks in names are escaped.

const { memoryError } = require('../core/errors.js')
const { invalid, formatValue } = require('../core/options.js')
const { actionOf, unescaped } = require('../replay/event-log.js')

const RMM_COLUMNS = ['Thread', 'Time', 'Action', 'Pointer', 'Size', 'Stream']
const EXTRA_COLUMNS = ['Type', 'TimeUs', 'Kind', 'Tag', 'Pool', 'Id']

/**
 * @typedef {import('../types/profiling.js').MemoryEvent} MemoryEvent
 * @typedef {import('../types/profiling.js').MemoryProfile} MemoryProfile
 */

/** @type {MemoryEvent['type'][]} */
const TYPES = ['allocate', 'free', 'fail', 'grow', 'trim', 'move', 'collect']
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
function eventLog({ events, startedAt }) {
  const startUs = Math.round(startedAt * 1000)
  const live = new Set()
  const rmmActionOf = (/** @type {MemoryEvent} */ { type, id }) => {
    if (type === 'allocate') {
      live.add(id)
      return 'allocate'
    }
    return (type === 'free' || type === 'collect') && live.delete(id) ? 'free' : 'allocate failure'
  }
  const rows = events.map((event) => {
    const { type, timeUs, id, kind, size, tag, pool, thread = 0 } = event
    const rmmFields = [thread, timeOfDay(startUs + timeUs), rmmActionOf(event), `0x${id.toString(16)}`, size, 0]
    return [...rmmFields, type, timeUs, kind, quoted(tag), quoted(pool), id].join()
  })
  return `${[[...RMM_COLUMNS, ...EXTRA_COLUMNS].join(), ...rows].join('\n')}\n`
}

const FIELD = /(?: *"((?:[^"]|"")*)" *|([^",]*))(,|$)/y

/**
 * Splits one line into fields; an empty field without quotes is null. Returns null if a quote is out of place.
 *
 * @param {string} line
 */
function fieldsOf(line) {
  /** @type {Array<string | null>} */
  const fields = []
  for (FIELD.lastIndex = 0; ;) {
    const match = FIELD.exec(line)
    if (match === null) return null
    const [, inQuotes, bare, end] = match
    fields.push(inQuotes === undefined ? bare.trim() || null : inQuotes.replaceAll('""', '"'))
    if (end === '') return fields
  }
}

/**
 * Parses a whole number, decimal or "0x..."; undefined otherwise.
 *
 * @param {string | null} text
 */
function whole(text) {
  const number = /^(?:0x[\da-f]+|\d+)$/i.test(text ?? '') ? Number(text) : NaN
  return Number.isSafeInteger(number) ? number : undefined
}

/**
 * Parses RMM's "HH:MM:SS.micros" (older: a colon before the micros) to µs since midnight; undefined otherwise.
 *
 * @param {string | null} text
 */
function clockUs(text) {
  const parts = /^(\d\d?):(\d\d):(\d\d)[.:](\d{6})$/.exec(text ?? '')
  if (parts === null) return undefined
  const [hours, minutes, seconds, us] = parts.slice(1).map(Number)
  return ((hours * 60 + minutes) * 60 + seconds) * 1e6 + us
}

/**
 * Parses an event log of RMM or of this package. Without the column TimeUs, times are µs since the first event.
 *
 * @param {string} text
 * @returns {MemoryEvent[]}
 */
function parseEventLog(text) {
  if (typeof text !== 'string') throw invalid(`parseEventLog: the log must be a string, not ${formatValue(text)}`)
  const lines = text.replace(/^\uFEFF/, '').split(/\r?\n/)
  while (lines.at(-1) === '') lines.pop()
  const bad = (/** @type {number} */ at, /** @type {string} */ what) =>
    memoryError('ERR_OUT_OF_RANGE', `line ${at + 1} of the event log: ${what}`, {
      hint: `a log starts with ${RMM_COLUMNS.join()}, as RMM's logging adaptor and a .csv report write it`,
    })

  const header = fieldsOf(lines[0] ?? '') ?? []
  const columns = Object.fromEntries([...RMM_COLUMNS, ...EXTRA_COLUMNS].map((name) => [name, header.indexOf(name)]))
  for (const name of RMM_COLUMNS) if (columns[name] === -1) throw bad(0, `there is no column ${name}`)

  const clock = dayClock()
  return lines.slice(1).map((line, index) => {
    const at = index + 1
    const fields = fieldsOf(line)
    if (fields === null) throw bad(at, 'a quote is out of place')
    if (fields.length !== header.length) throw bad(at, `${fields.length} fields, not ${header.length}`)
    const field = (/** @type {string} */ name) => (columns[name] === -1 ? null : fields[columns[name]])
    /** @type {(name: string, fallback?: number) => number} */
    const number = (name, fallback) => {
      const value = fallback !== undefined && field(name) === null ? fallback : whole(field(name))
      if (value === undefined)
        throw bad(at, `${name} is ${formatValue(field(name))}; it must be a whole number below 2^53`)
      return value
    }
    /** @type {<T extends string>(name: string, allowed: T[], value: string | null) => T} */
    const oneOf = (name, allowed, value) => {
      const found = allowed.find((one) => one === value)
      if (found === undefined) {
        throw bad(at, `${name} is ${formatValue(value)}; it must be one of ${allowed.join(', ')}`)
      }
      return found
    }
    const action = actionOf(field('Type') ?? field('Action') ?? '')
    const day = clockUs(field('Time'))
    if (day === undefined) throw bad(at, `Time is ${formatValue(field('Time'))}; it must be like 14:03:07.000250`)
    const elapsed = clock(day)
    return {
      type: oneOf(field('Type') === null ? 'Action' : 'Type', TYPES, /** @type {MemoryEvent['type']} */ (action)),
      timeUs: number('TimeUs', elapsed),
      id: number('Id', field('Pointer') === '(nil)' ? 0 : number('Pointer')),
      // RMM logs device memory only.
      kind: oneOf('Kind', ['npu', 'system'], field('Kind') ?? 'npu'),
      size: number('Size'),
      tag: unescaped(field('Tag')),
      pool: unescaped(field('Pool')),
      thread: number('Thread'),
    }
  })
}

/** Converts times of day to µs since the first. A log may pass midnight, and threads may be slightly out of order. */
function dayClock() {
  /** @type {number | undefined} */
  let first
  /** @type {number | undefined} */
  let last
  let days = 0
  return (/** @type {number} */ time) => {
    first ??= time
    last ??= time
    if (last - time > DAY_US / 2) days++
    last = time
    return Math.max(0, time - first + days * DAY_US)
  }
}

module.exports = { eventLog, parseEventLog }
