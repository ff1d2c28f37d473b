'use strict'

// What a replay reads: RMM's event log (Thread,Time,Action,Pointer,Size,Stream), ours, which has the same six columns and then
// its own, or events as `getMemoryProfile` gives them. Columns are found by name, so that others may stand between them.

const { invalid, outOfRange, shown } = require('../core/options.js')

/** An entry is `{ type, kind, pool, tag, id, size, line }`; what a log does not tell is null. */
function readLog(log) {
  if (typeof log === 'string') return readCsv(log)
  if (typeof log === 'object' && log !== null && typeof log[Symbol.iterator] === 'function') return readEvents(log)
  throw invalid(`the log must be the text of a .csv or a list of events, not ${shown(log)}`)
}

function* readEvents(events) {
  let line = 0
  for (const event of events) {
    line++
    if (typeof event !== 'object' || event === null)
      throw invalid(`event ${line} of the log must be an object, not ${shown(event)}`)
    const { type, kind = null, pool = null, tag = null, id, size } = event
    yield { type, kind, pool, tag, id, size, line }
  }
}

function* readCsv(text) {
  const rows = new Rows(text)
  if (!rows.next()) throw notALog('it is empty')
  const header = Array.from({ length: rows.columns }, (_, column) => rows.field(column).trim().toLowerCase())
  const [action, pointer, sizes, types, kinds, tags, pools, ids] = COLUMNS.map((name) => header.indexOf(name))
  if (action < 0 || pointer < 0 || sizes < 0) throw notALog(`its first line is ${shown(header.join(',').slice(0, 80))}`)
  while (rows.next()) {
    if (rows.columns === 1 && rows.field(0) === '') continue
    if (rows.columns <= Math.max(action, pointer, sizes))
      throw outOfRange(`line ${rows.line} of the log has ${rows.columns} columns only`)
    yield {
      type: rows.field(types) || rows.field(action),
      kind: rows.field(kinds) || null,
      tag: rows.field(tags) || null,
      pool: rows.field(pools) || null,
      id: rows.number(ids) ?? rows.number(pointer),
      size: rows.number(sizes),
      line: rows.line,
    }
  }
}

const COLUMNS = ['action', 'pointer', 'size', 'type', 'kind', 'tag', 'pool', 'id']
const [RETURN, ZERO, X] = ['\r', '0', 'x'].map((letter) => letter.charCodeAt(0))

/** Rows of comma-separated values (RFC 4180), one at a time. Logs have millions: nothing is cut out before it is asked for. */
class Rows {
  columns = 0
  /** The line that the row begins at, counted from 1. */
  line = 0
  #text
  /** Where the next row begins, and how many lines the present one has. */
  #at
  #lines = 1
  /** Places of the next comma and the next quote that were found, which may lie rows ahead. */
  #comma = -1
  #quote = -1
  /** Where fields begin and end; of a row with quotes in it, the fields themselves. */
  #starts = []
  #ends = []
  #fields = null

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
    const end = this.#next('\n', start)
    if (this.#quote < start) this.#quote = this.#next('"', start)
    if (this.#quote < end) return this.#quoted(start)
    const [starts, ends] = [this.#starts, this.#ends]
    let columns = 0
    starts[0] = start
    let comma = this.#comma < start ? this.#next(',', start) : this.#comma
    for (; comma < end; comma = this.#next(',', comma + 1)) {
      ends[columns++] = comma
      starts[columns] = comma + 1
    }
    this.#comma = comma
    ends[columns] = end > starts[columns] && text.charCodeAt(end - 1) === RETURN ? end - 1 : end
    this.columns = columns + 1
    this.#at = end + 1
    return true
  }

  /** Where `letter` is next; the text's end where it is not. Searching is far quicker than looking at each letter. */
  #next(letter, from) {
    const at = this.#text.indexOf(letter, from)
    return at < 0 ? this.#text.length : at
  }

  /** undefined where there is no such column. */
  field(column) {
    if (column < 0 || column >= this.columns) return undefined
    return this.#fields === null ? this.#text.slice(this.#starts[column], this.#ends[column]) : this.#fields[column]
  }

  /** What the field says if it is a whole number, decimal or 0x…; its text otherwise, undefined where there is none. */
  number(column) {
    if (this.#fields !== null || column < 0 || column >= this.columns) return numeric(this.field(column))
    const [text, end] = [this.#text, this.#ends[column]]
    let at = this.#starts[column]
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

  #quoted(start) {
    const { fields, lines, end } = quotedRow(this.#text, start, this.line)
    this.#fields = fields
    this.columns = fields.length
    this.#lines = lines
    this.#at = end
    return true
  }
}

/** 0 to 15; more for what is no digit. */
function digitOf(letter) {
  if (letter >= ZERO && letter <= ZERO + 9) return letter - ZERO
  const small = (letter | 32) - 97
  return small >= 0 && small < 6 ? small + 10 : 16
}

function numeric(field) {
  if (!field) return undefined
  const value = /^(0x[\da-f]+|\d+)$/i.test(field) ? Number(field) : NaN
  return value <= Number.MAX_SAFE_INTEGER ? value : field
}

const FIELD = /"([^"]*(?:""[^"]*)*)"|([^,\r\n]*)/y

/** A row with quotes in it, whose fields may hold commas, quotes and line ends. */
function quotedRow(text, start, line) {
  const fields = []
  for (let at = start; ;) {
    FIELD.lastIndex = at
    const [all, quoted, plain] = FIELD.exec(text)
    if (plain?.startsWith('"')) throw outOfRange(`line ${line} of the log has a quote that is not closed`)
    fields.push(plain ?? quoted.replaceAll('""', '"'))
    const end = at + all.length
    if (text[end] === ',') {
      at = end + 1
      continue
    }
    const next = text.startsWith('\r\n', end) ? end + 2 : end + 1
    if (end < text.length && text[next - 1] !== '\n')
      throw outOfRange(`line ${line} of the log has text behind a quote`)
    return { fields, lines: text.slice(start, next).split('\n').length - (text[next - 1] === '\n' ? 1 : 0), end: next }
  }
}

function notALog(why) {
  return outOfRange(`this is no event log: ${why}`, {
    hint: 'its columns are Thread,Time,Action,Pointer,Size,Stream, as writeReport and RMM write them',
  })
}

module.exports = { readLog }
