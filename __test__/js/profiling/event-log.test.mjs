/** The event log: reading it back, replaying it with RMM's tools, and reading RMM's logs. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import csv from '../../../src/js/report/csv.js'
import { HOSTILE, nothing, sample } from '../../browser/sample.mjs'
import { refuses } from '../../support/helpers.mjs'

const { eventLog, parseEventLog } = csv
const { profile } = sample()
profile.events[0] = { ...profile.events[0], tag: HOSTILE }

test('every event survives writing and reading', () => {
  const text = eventLog(profile)
  assert.ok(text.startsWith('Thread,Time,Action,Pointer,Size,Stream,Type,TimeUs,Kind,Tag,Pool,Id\n'))
  const lines = text.trimEnd().split('\n')
  assert.equal(lines.length, profile.events.length + 1, 'one line an event, whatever its tag')
  assert.doesNotMatch(text, /\r/)
  assert.deepEqual(parseEventLog(text), profile.events)
  assert.deepEqual(parseEventLog(`\uFEFF${text.replaceAll('\n', '\r\n')}`), profile.events)
})

test('a replay by RMM frees exactly its allocations', () => {
  const rows = eventLog(profile).trimEnd().split('\n').slice(1)
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
  const [, row] = eventLog({ ...orphan, startedAt: 0 }).split('\n')
  assert.equal(row, '0,00:00:00.000005,allocate failure,0x9,64,0,free,5,npu,"",,9')
})

test('logs of RMM itself, and bad ones by their line', () => {
  const header = 'Thread,Time,Action,Pointer,Size,Stream'
  const log = [
    header,
    '1979932,23:59:59.900000,allocate,0x30a000000,1024,0x2',
    '7,23:59:59:999999,allocate failure,(nil),999,0',
    '1979932,00:00:00.100000,free,0x30a000000,1024,0x2',
  ]
  const rest = { kind: 'npu', tag: null, pool: null }
  assert.deepEqual(parseEventLog(log.join('\n')), [
    { type: 'allocate', timeUs: 0, id: 0x30a000000, size: 1024, thread: 1979932, ...rest },
    { type: 'fail', timeUs: 99_999, id: 0, size: 999, thread: 7, ...rest },
    { type: 'free', timeUs: 200_000, id: 0x30a000000, size: 1024, thread: 1979932, ...rest },
  ])
  assert.deepEqual(parseEventLog(`${header}\n`), [])
  const ours = `${header},Type,TimeUs,Kind,Tag,Pool,Id`
  for (const [line, bad, heading] of [
    [1, '', ''],
    [1, '', 'Thread,Time,Action,Pointer,Size'],
    [3, '1,00:00:00.000000,shrink,0x1,1,0'],
    [3, '1,00:00:00.000000,allocate,0x1,1'],
    [3, '1,00:00:00.000000,allocate,0x1,1,0,9'],
    [3, '1,00:00:00.000000,allocate,0x1,-1,0'],
    [3, '1,00:00:00.000000,allocate,0x1,1e3,0'],
    [3, '1,00:00:00.000000,allocate,zz,1,0'],
    [3, '1,00:00:00.000000,allocate,0xffffffffffffffff,1,0'],
    [3, '1,yesterday,allocate,0x1,1,0'],
    [3, '1,00:00:00.000000,"allocate,0x1,1,0'],
    [3, ''],
    [3, '1,00:00:00.000000,allocate,0x1,1,0,gone,1,npu,,,1', ours],
    [3, '1,00:00:00.000000,allocate,0x1,1,0,free,1,gpu,,,1', ours],
    [3, '1,00:00:00.000000,allocate,0x1,1,0,free,1,npu,a"b,,1', ours],
  ]) {
    const good =
      heading === ours ? '1,00:00:00.000000,allocate,0x1,1,0,allocate,1,npu,,,1' : '1,00:00:00.000000,allocate,0x1,1,0'
    const error = refuses(() => parseEventLog([heading ?? header, good, bad, good].join('\n')), 'ERR_OUT_OF_RANGE', bad)
    assert.ok(error.message.startsWith(`line ${line} of the event log: `), error.message)
  }
  for (const bad of [undefined, null, 7, Buffer.from(header)]) refuses(() => parseEventLog(bad), 'ERR_INVALID_ARG_TYPE')
})
