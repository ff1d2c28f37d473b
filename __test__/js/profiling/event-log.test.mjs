/** The event log: reading it back, replaying it with RMM's tools, and reading RMM's logs. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import eventLogs from '../../../src/js/replay/event-log.js'
import csv from '../../../src/js/report/csv.js'
import { HOSTILE, nothing, sample, textOf } from '../../browser/sample.mjs'
import { refuses } from '../../support/helpers.mjs'

/** The text of a profile's log. */
const eventLog = (profile) => textOf(csv.eventLog(profile))
const parseLog = (text) => [...eventLogs.readLog(text)].map(({ line: _line, ...entry }) => entry)
const { profile } = sample()
profile.events[0] = { ...profile.events[0], tag: HOSTILE }

test('every event survives writing and reading', async () => {
  const text = await eventLog(profile)
  assert.ok(text.startsWith('Thread,Time,Action,Pointer,Size,Stream,Type,TimeUs,Kind,Tag,Pool,Id\n'))
  const lines = text.trimEnd().split('\n')
  assert.equal(lines.length, profile.events.length + 1, 'one line an event, whatever its tag')
  assert.doesNotMatch(text, /\r/)
  const events = profile.events.map(({ thread: _thread, timeUs: _timeUs, ...event }) => event)
  assert.deepEqual(parseLog(text), events)
  assert.deepEqual(parseLog(`\uFEFF${text.replaceAll('\n', '\r\n')}`), events)
})

test('a replay by RMM frees exactly its allocations', async () => {
  const rows = (await eventLog(profile)).trimEnd().split('\n').slice(1)
  const live = new Map()
  for (const [at, row] of rows.entries()) {
    // RMM's tools read the first six columns, which hold no quotes.
    const [thread, time, action, pointer, size, stream] = row.split(',')
    assert.match(thread, /^\d+$/)
    assert.match(time, /^\d\d:\d\d:\d\d\.\d{6}$/)
    assert.match(pointer, /^0x[\da-f]+$/)
    assert.equal(stream, '0')
    const { type } = profile.events[at]
    if (action === 'allocate') live.set(pointer, size)
    else if (action === 'free') assert.equal(live.get(pointer), size)
    else assert.equal(action, 'allocate failure')
    if (action === 'free') live.delete(pointer)
    assert.equal(action, { allocate: 'allocate', free: 'free', collect: 'free' }[type] ?? 'allocate failure')
  }
  // The allocation fell out of the ring: there is no event to undo.
  const orphan = {
    ...nothing().profile,
    events: [{ type: 'free', timeUs: 5, id: 9, kind: 'npu', size: 64, tag: '', pool: null }],
  }
  const [, row] = (await eventLog({ ...orphan, startedAt: 0 })).split('\n')
  assert.equal(row, '0,00:00:00.000005,allocate failure,0x9,64,0,free,5,npu,"",,9')
})

const HEADER = 'Thread,Time,Action,Pointer,Size,Stream'

test('logs of RMM itself, whatever their times', () => {
  const log = [
    HEADER,
    '1979932,23:59:59.900000,allocate,0x30a000000,1024,0x2',
    '7,23:59:59:999999,allocate failure,(nil),999,0',
    '1979932,4.25,free,0x30a000000,1024,0x2',
  ]
  const rest = { kind: null, tag: null, pool: null }
  assert.deepEqual(parseLog(log.join('\n')), [
    { type: 'allocate', id: 0x30a000000, size: 1024, ...rest },
    { type: 'fail', id: '(nil)', size: 999, ...rest },
    { type: 'free', id: 0x30a000000, size: 1024, ...rest },
  ])
  assert.deepEqual(parseLog(`${HEADER}\n`), [])
})

test('quotes, blanks, capitals, line ends, the order of columns and further columns change nothing', () => {
  const taken = 'allocate,0x10,64,npu,"a ""b"", c",allocate'
  const plain = ['Action,Pointer,Size,Kind,Tag,Type', taken, 'free,0x10,64,npu,kv,free']
  const expected = [
    { type: 'allocate', kind: 'npu', tag: 'a "b", c', pool: null, id: 16, size: 64 },
    { type: 'free', kind: 'npu', tag: 'kv', pool: null, id: 16, size: 64 },
  ]
  const rows = [
    ['SIZE', ' pointer', 'Note', '"tag"', 'Action', 'type', 'KIND'],
    [' 64', ' 0X10 ', '"1,\n2"', ' "a ""b"", c" ', 'ALLOCATE', ' Allocate', ' NPU '],
    ['"64"', '\t16', '', '\tkv ', ' Deallocate', '', ' Npu'],
  ]
  const texts = [plain, rows.map((row) => row.join(',')), rows.map((row) => row.join(', '))]
  for (const lines of texts) {
    for (const end of ['\n', '\r\n']) {
      for (const tail of ['', end, `${end} ${end}${end}`]) {
        for (const mark of ['', '\uFEFF'])
          assert.deepEqual(parseLog(mark + lines.join(end) + tail), expected, JSON.stringify([lines, end, tail, mark]))
      }
    }
  }
})

test('a text that is no log, and a bad row by its line', () => {
  for (const text of ['', 'id,lower,upper,size\nb1,0,3,4\n', 'TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\n'])
    assert.match(refuses(() => parseLog(text), 'ERR_OUT_OF_RANGE').message, /this is not an event log/)
  const good = '1,00:00:00.000000,allocate,0x1,1,0'
  for (const bad of ['1,00:00:00.000000,allocate,0x1', '1,00:00:00.000000,"allocate,0x1,1,0', '"1"2,0,free,0x1,1,0']) {
    const { message } = refuses(() => parseLog([HEADER, good, bad, good].join('\n')), 'ERR_OUT_OF_RANGE')
    assert.match(message, /^line 3 of/)
  }
  for (const bad of [undefined, null, 7, {}]) refuses(() => parseLog(bad), 'ERR_INVALID_ARG_TYPE')
})
