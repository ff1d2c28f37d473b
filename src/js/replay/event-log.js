'use strict'

// Reads event logs: RMM's CSV (Thread,Time,Action,Pointer,Size,Stream), this package's CSV (`report/csv.js`), which
// appends columns to those, or the events of `getMemoryProfile`. Columns are found by name, in any order and case, so
// that other columns may stand between them.

const { invalid, outOfRange, formatValue } = require('../core/options.js')
const { Rows } = require('./csv-rows.js')

const RMM_COLUMNS = ['Thread', 'Time', 'Action', 'Pointer', 'Size', 'Stream']
const EXTRA_COLUMNS = ['Type', 'TimeUs', 'Kind', 'Tag', 'Pool', 'Id']

/**
 * An entry of a log; fields that the log does not have are null. Nothing checks the fields of a caller's events.
 *
 * @typedef {object} Entry
 * @property {any} type
 * @property {any} kind
 * @property {any} pool
 * @property {any} tag
 * @property {any} id
 * @property {any} size
 * @property {number} line
 */

/**
 * Yields the entries of a log.
 *
 * @param {unknown} log
 * @returns {Iterable<Entry>}
 */
function readLog(log) {
  if (typeof log === 'string') return readCsv(log)
  if (isIterable(log)) return readEvents(log)
  throw invalid(`the log must be the text of a .csv or a list of events, not ${formatValue(log)}`)
}

/** @type {(value: any) => value is Iterable<any>} */
const isIterable = (value) => typeof value === 'object' && typeof value?.[Symbol.iterator] === 'function'

/**
 * @param {Iterable<any>} events
 * @returns {Generator<Entry>}
 */
function* readEvents(events) {
  let line = 0
  for (const event of events) {
    line++
    if (typeof event !== 'object' || event === null)
      throw invalid(`event ${line} of the log must be an object, not ${formatValue(event)}`)
    // PyTorch's memory traces have `action` and `addr`.
    const { action, addr, type = action, kind = null, pool = null, tag = null, id = addr, size } = event
    yield { type: typeof type === 'string' ? actionOf(type) : type, kind, pool, tag, id, size, line }
  }
}

/**
 * @param {string} text
 * @returns {Generator<Entry>}
 */
function* readCsv(text) {
  const rows = new Rows(text)
  if (!rows.next()) throw notALogError('it is empty')
  const header = Array.from({ length: rows.columns }, (_, column) => (rows.field(column) ?? '').toLowerCase())
  const [action, pointer, sizes, types, kinds, tags, pools, ids] = COLUMNS.map((name) => header.indexOf(name))
  // Only this package escapes line ends in names (`report/csv.js`), and says which names are empty.
  const nameOf = (/** @type {number} */ column) => {
    const name = rows.name(column)
    return types < 0 ? name || null : unescaped(name)
  }
  if (action < 0 || pointer < 0 || sizes < 0)
    throw notALogError(`its first line is ${formatValue(header.join(',').slice(0, 80))}`)
  while (rows.next()) {
    if (rows.columns === 1 && !rows.field(0)) continue
    if (rows.columns <= Math.max(action, pointer, sizes))
      throw outOfRange(`line ${rows.line} of the log has ${rows.columns} columns only`)
    yield {
      type: actionOf(rows.field(types) || rows.field(action) || ''),
      kind: rows.field(kinds)?.toLowerCase() || null,
      tag: nameOf(tags),
      pool: nameOf(pools),
      id: rows.number(ids) ?? rows.number(pointer),
      size: rows.number(sizes),
      line: rows.line,
    }
  }
}

/**
 * The names that other allocators' logs give to an action of this package, which are the values: RMM (its logs say
 * `free`, its guide `deallocate`) and PyTorch (CUDACachingAllocator). A block of PyTorch is free when the free is
 * completed; its segments are chunks.
 *
 * @type {Record<string, string>}
 */
const ACTIONS = {
  alloc: 'allocate',
  malloc: 'allocate',
  deallocate: 'free',
  dealloc: 'free',
  free_completed: 'free',
  free_requested: 'requested',
  'allocate failure': 'fail',
  allocate_failure: 'fail',
  oom: 'fail',
  segment_alloc: 'grow',
  segment_map: 'grow',
  segment_free: 'trim',
  segment_unmap: 'trim',
  snapshot: 'mark',
}

/** The actions that the functions of this file return, beside those that are not known. */
const KNOWN = new Set(['allocate', 'free', 'collect', 'fail', 'grow', 'trim', 'move', ...Object.values(ACTIONS)])

/** @type {Map<string, string>} The words of a log are few. */
const actions = new Map()

/**
 * Returns the action that a log means by a word: one of `KNOWN`, or else the word itself.
 *
 * @param {string} word
 */
function actionOf(word) {
  const known = actions.get(word)
  if (known !== undefined) return known
  const plain = word.trim().toLowerCase()
  const action = Object.hasOwn(ACTIONS, plain) ? ACTIONS[plain] : KNOWN.has(plain) ? plain : word.trim()
  if (actions.size < 1000) actions.set(word, action)
  return action
}

/** @type {Record<string, string>} */
const UNESCAPES = { '\\\\': '\\', '\\n': '\n', '\\r': '\r' }

/** @type {(name: string | null) => string | null} A name as it was before `report/csv.js` escaped it. */
const unescaped = (name) => name?.replace(/\\[\\nr]/g, (escape) => UNESCAPES[escape]) ?? null

const COLUMNS = ['action', 'pointer', 'size', 'type', 'kind', 'tag', 'pool', 'id']

/** @param {string} why */
function notALogError(why) {
  return outOfRange(`this is not an event log: ${why}`, {
    hint: `its columns are ${RMM_COLUMNS.join()}, as writeReport and RMM write them`,
  })
}

module.exports = { EXTRA_COLUMNS, KNOWN, RMM_COLUMNS, readLog }
