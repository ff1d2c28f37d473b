'use strict'

// Reads the log of a replay: RMM's CSV (Thread,Time,Action,Pointer,Size,Stream), this package's CSV, which appends
// columns to those, or the events of `getMemoryProfile`. Columns are found by name, so that other columns may stand
// between them.

const { invalid, outOfRange, formatValue } = require('../core/options.js')

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
  const header = Array.from({ length: rows.columns }, (_, column) => (rows.field(column) ?? '').trim().toLowerCase())
  const [action, pointer, sizes, types, kinds, tags, pools, ids] = COLUMNS.map((name) => header.indexOf(name))
  // Only this package escapes line ends in names (`report/csv.js`), and says which names are empty.
  const nameOf = (/** @type {number} */ column) => {
    const name = rows.name(column)
    return types < 0 ? name || null : unescaped(name)
  }
  if (action < 0 || pointer < 0 || sizes < 0)
    throw notALogError(`its first line is ${formatValue(header.join(',').slice(0, 80))}`)
  while (rows.next()) {
    if (rows.columns === 1 && rows.field(0) === '') continue
    if (rows.columns <= Math.max(action, pointer, sizes))
      throw outOfRange(`line ${rows.line} of the log has ${rows.columns} columns only`)
    yield {
      type: actionOf(rows.field(types) || rows.field(action) || ''),
      kind: rows.field(kinds)?.trim() || null,
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
const [RETURN, BLANK, ZERO, X] = ['\r', ' ', '0', 'x'].map((letter) => letter.charCodeAt(0))

/**
 * Reads comma-separated values (RFC 4180) row by row. A log has millions of rows, so a field is only sliced when it is
 * read.
 */
class Rows {
  columns = 0
  /** The line at which the row begins, counted from 1. */
  line = 0
  #text
  /** The offset of the next row, and the number of lines in the current one. */
  #at
  #lines = 1
  /** The offsets of the next comma and quote, which may be rows ahead. */
  #comma = -1
  #quote = -1
  /** @type {number[]} The offsets at which fields begin. A row with quotes has its fields in `#fields`. */
  #starts = []
  /** @type {number[]} The offsets at which fields end. */
  #ends = []
  /** @type {string[] | null} */
  #fields = null
  /** @type {Set<number> | null} The columns in quotes. */
  #quotes = null

  /** @param {string} text */
  constructor(text) {
    this.#text = text
    this.#at = text.charCodeAt(0) === 0xfeff ? 1 : 0
  }

  next() {
    const [text, start] = [this.#text, this.#at]
    if (start >= text.length) return false
    this.line += this.#lines
    this.#lines = 1
    this.#fields = null
    this.#quotes = null
    const end = this.#find('\n', start)
    if (this.#quote < start) this.#quote = this.#find('"', start)
    if (this.#quote < end) return this.#quoted(start)
    const [starts, ends] = [this.#starts, this.#ends]
    let columns = 0
    starts[0] = start
    let comma = this.#comma < start ? this.#find(',', start) : this.#comma
    for (; comma < end; comma = this.#find(',', comma + 1)) {
      ends[columns++] = comma
      starts[columns] = comma + 1
    }
    this.#comma = comma
    ends[columns] = end > starts[columns] && text.charCodeAt(end - 1) === RETURN ? end - 1 : end
    this.columns = columns + 1
    this.#at = end + 1
    return true
  }

  /**
   * Finds `letter`, or the end of the text. `indexOf` is far faster than a loop over letters.
   *
   * @param {string} letter
   * @param {number} from
   */
  #find(letter, from) {
    const at = this.#text.indexOf(letter, from)
    return at < 0 ? this.#text.length : at
  }

  /**
   * Returns a field's text; undefined without such a column.
   *
   * @param {number} column
   */
  field(column) {
    if (column < 0 || column >= this.columns) return undefined
    return this.#fields === null ? this.#text.slice(this.#starts[column], this.#ends[column]) : this.#fields[column]
  }

  /**
   * Returns a name: null without such a column, and for an empty field without quotes.
   *
   * @param {number} column
   */
  name(column) {
    return this.field(column) || (this.#quotes?.has(column) ? '' : null)
  }

  /**
   * Returns a field as a number if it is a whole one, decimal or 0x…; otherwise its text, or undefined if it is
   * empty.
   *
   * @param {number} column
   * @returns {number | string | undefined}
   */
  number(column) {
    if (this.#fields !== null || column < 0 || column >= this.columns) return numeric(this.field(column))
    const text = this.#text
    let [at, end] = [this.#starts[column], this.#ends[column]]
    while (at < end && text.charCodeAt(at) === BLANK) at++
    while (at < end && text.charCodeAt(end - 1) === BLANK) end--
    if (at === end) return undefined
    const base = end - at > 2 && text.charCodeAt(at) === ZERO && (text.charCodeAt(at + 1) | 32) === X ? 16 : 10
    let value = 0
    for (at += base === 16 ? 2 : 0; at < end; at++) {
      const digit = digitOf(text.charCodeAt(at))
      if (digit >= base) return this.field(column)
      value = value * base + digit
    }
    return value <= Number.MAX_SAFE_INTEGER ? value : this.field(column)
  }

  /** @param {number} start */
  #quoted(start) {
    const { fields, quotes, lines, end } = quotedRow(this.#text, start, this.line)
    this.#fields = fields
    this.#quotes = quotes
    this.columns = fields.length
    this.#lines = lines
    this.#at = end
    return true
  }
}

/**
 * Returns 0 to 15 for a hexadecimal digit, 16 for any other letter.
 *
 * @param {number} letter
 */
function digitOf(letter) {
  if (letter >= ZERO && letter <= ZERO + 9) return letter - ZERO
  const small = (letter | 32) - 97
  return small >= 0 && small < 6 ? small + 10 : 16
}

/** @param {string | undefined} given */
function numeric(given) {
  const field = given?.trim()
  if (!field) return undefined
  const value = /^(0x[\da-f]+|\d+)$/i.test(field) ? Number(field) : NaN
  return value <= Number.MAX_SAFE_INTEGER ? value : field
}

const FIELD = / *"([^"]*(?:""[^"]*)*)" *|([^,\r\n]*)/y

/**
 * Parses a row with quoted fields, which may hold commas, quotes and line ends.
 *
 * @param {string} text
 * @param {number} start
 * @param {number} line
 */
function quotedRow(text, start, line) {
  /** @type {string[]} */
  const fields = []
  /** @type {Set<number>} */
  const quotes = new Set()
  for (let at = start; ;) {
    FIELD.lastIndex = at
    // The second alternative matches anything, if only the empty string.
    const [all, quoted, plain] = /** @type {RegExpExecArray} */ (FIELD.exec(text))
    if (plain?.trimStart().startsWith('"')) throw outOfRange(`line ${line} of the log has a quote that is not closed`)
    if (plain === undefined) quotes.add(fields.length)
    fields.push(plain ?? quoted.replaceAll('""', '"'))
    const end = at + all.length
    if (text[end] === ',') {
      at = end + 1
      continue
    }
    const next = text.startsWith('\r\n', end) ? end + 2 : end + 1
    if (end < text.length && text[next - 1] !== '\n')
      throw outOfRange(`line ${line} of the log has text after a closing quote`)
    const lines = text.slice(start, next).split('\n').length - (text[next - 1] === '\n' ? 1 : 0)
    return { fields, quotes, lines, end: next }
  }
}

/** @param {string} why */
function notALogError(why) {
  return outOfRange(`this is not an event log: ${why}`, {
    hint: 'its columns are Thread,Time,Action,Pointer,Size,Stream, as writeReport and RMM write them',
  })
}

module.exports = { KNOWN, actionOf, readLog, unescaped }
