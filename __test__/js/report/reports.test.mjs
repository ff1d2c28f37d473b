/** Reports: each format by an independent reader, hostile names, empty reports, and atomic files. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { gunzipSync } from 'node:zlib'

import Ajv from 'ajv'
import { Profile } from 'pprof-format'

import { MemoryError, MemoryManager } from '../../../index.js'
import native from '../../../src/js/core/binding.js'
import report from '../../../src/js/report/index.js'
import { HOSTILE, nothing, sample, sourceOf } from '../../browser/sample.mjs'
import { needsCommand, rejects } from '../../support/helpers.mjs'

const { REPORT_FORMATS, writeDiff, writeReport } = report
const require = createRequire(import.meta.url)

const FULL = sample({ tag: HOSTILE })
const { snapshot, profile } = FULL
profile.events[0] = { ...profile.events[0], tag: HOSTILE }
profile.callSites[0] = { ...profile.callSites[0], tag: HOSTILE }

function directory(t) {
  const path = mkdtempSync(join(tmpdir(), 'rkllm-report-'))
  t.after(() => rmSync(path, { recursive: true, force: true }))
  return path
}

async function written(t, name, source = FULL) {
  const path = join(directory(t), name)
  await writeReport(path, sourceOf(source))
  return readFileSync(path)
}

test('every format replaces an old file atomically, and leaves no other file', async (t) => {
  const path = directory(t)
  for (const source of [FULL, nothing()]) {
    for (const extension of REPORT_FORMATS) await writeReport(join(path, `report${extension}`), sourceOf(source))
    assert.deepEqual(readdirSync(path).sort(), REPORT_FORMATS.map((extension) => `report${extension}`).sort())
  }
  assert.equal(readFileSync(join(path, 'report.prom'), 'utf8'), '# EOF\n')
  assert.equal(JSON.parse(readFileSync(join(path, 'report.json'))).snapshot.buffers.length, 0)
})

test('a format reads only the figures that it needs, and a bad path none', async (t) => {
  const path = directory(t)
  const asked = []
  const source = (needs) => (asked.push(...needs), sourceOf(FULL)(needs))
  for (const [extension, needs] of [
    ['.prom', ['metrics']],
    ['.csv', ['profile']],
    ['.pb.gz', ['profile']],
    ['.trace.json', ['profile']],
    ['.JSON', ['snapshot', 'profile', 'usage']],
  ]) {
    asked.length = 0
    await writeReport(join(path, `report${extension}`), source)
    assert.deepEqual(asked, needs, extension)
  }
  asked.length = 0
  for (const bad of [undefined, null, 7, {}, ['a.json'], '', 'a\0.json'])
    await rejects(writeReport(bad, source), 'ERR_INVALID_ARG_TYPE')
  for (const unknown of ['report', 'report.txt', 'report.jsonl', 'html', '.gz']) {
    const { hint, message } = await rejects(writeReport(unknown, source), 'ERR_OUT_OF_RANGE')
    for (const extension of REPORT_FORMATS) assert.ok(hint.includes(extension), hint)
    assert.ok(message.includes(unknown))
  }
  assert.deepEqual(asked, [])
})

test('an error of the file system is a MemoryError, and no draft is left', async (t) => {
  const path = directory(t)
  const source = sourceOf(FULL)
  const missing = await rejects(writeReport(join(path, 'none', 'report.json'), source), 'ERR_DEVICE_IO')
  assert.deepEqual([missing.path, missing.syscall, missing.errno], [join(path, 'none', 'report.json'), 'open', 2])
  assert.match(missing.hint, /directory/)
  mkdirSync(join(path, 'taken.json'))
  const taken = await rejects(writeReport(join(path, 'taken.json'), source), 'ERR_DEVICE_IO')
  assert.equal(taken.errno, 21)
  assert.deepEqual(readdirSync(path), ['taken.json'])
})

test("a report is written where a FileHandle has no sync: under Yarn's Plug'n'Play", async (t) => {
  const path = directory(t)
  const handle = await open(join(path, 'other'), 'w')
  const prototype = Object.getPrototypeOf(handle)
  const { sync } = prototype
  t.after(() => void (prototype.sync = sync))
  prototype.sync = () => {
    throw new Error('Method not implemented.')
  }
  await handle.close()
  await writeReport(join(path, 'report.json'), sourceOf(FULL))
  assert.deepEqual(readdirSync(path).sort(), ['other', 'report.json'])
})

test('a report that fails leaves the old file, and passes the error on', async (t) => {
  const path = join(directory(t), 'report.json')
  writeFileSync(path, 'old')
  const failure = new MemoryError('disposed', { code: 'ERR_MANAGER_DISPOSED' })
  const source = () => {
    throw failure
  }
  await assert.rejects(writeReport(path, source), (error) => error === failure)
  assert.equal(readFileSync(path, 'utf8'), 'old')
})

/** Runs `act` and returns the most that `touch` was called for in one turn of the event loop. */
async function mostInOneTurn(act) {
  let [most, now, running] = [0, 0, true]
  const tick = () => {
    now = 0
    if (running) setImmediate(tick)
  }
  setImmediate(tick)
  await act(() => (most = Math.max(most, ++now)))
  running = false
  return most
}

test('no turn of the event loop handles more than a bounded number of blocks and events, in any format', async (t) => {
  const path = directory(t)
  const many = sample({ more: 4000 })
  const blocks = Array.from({ length: 4000 }, (_, at) => ({ offset: at * 64, size: 64, id: 1e6 + at, tag: 'many' }))
  const [pool] = many.snapshot.pools
  for (const extension of [...REPORT_FORMATS, '.diff.html']) {
    const most = await mostInOneTurn(async (touch) => {
      const counted = (list, name) =>
        list.map((entry) => {
          const get = () => (touch(), entry[name])
          return Object.defineProperty({ ...entry }, name, { enumerable: true, get })
        })
      const snapshot = {
        ...many.snapshot,
        buffers: counted(many.snapshot.buffers, 'kind'),
        pools: [{ ...pool, chunkMaps: [{ size: 256_000, blocks: counted(blocks, 'tag') }] }],
      }
      const profile = { ...many.profile, events: counted(many.profile.events, 'kind') }
      const source = sourceOf({ ...many, snapshot, profile })
      if (extension === '.diff.html') await writeDiff(join(path, 'a.html'), FULL.snapshot, source)
      else await writeReport(join(path, `report${extension}`), source)
    })
    assert.ok(most <= 1500, `${most} in one turn of ${extension}`)
    assert.ok(most >= 500 || !/html|json|csv/.test(extension), `${extension}: the test counts nothing`)
  }
})

test('the figures of a manager are read in turns too', async (t) => {
  const manager = new MemoryManager({ backend: 'simulated', profiling: true })
  t.after(() => manager.dispose())
  const pool = manager.createMemoryPool({ name: 'many', kind: 'system', initialSize: 4 << 20 })
  const kept = Array.from({ length: 4000 }, () => pool.allocate(64))
  const { reportData } = native
  t.after(() => (native.reportData = reportData))
  for (const extension of ['.html', '.json', '.csv', '.trace.json']) {
    const most = await mostInOneTurn(async (touch) => {
      const counted = (rows) =>
        new Proxy(rows, { get: (target, name) => (name === 'length' || touch(), target[name]) })
      native.reportData = (...args) => {
        const { promise, task } = reportData(...args)
        const counting = async () => {
          const { snapshot, profile } = await promise
          if (snapshot) snapshot.pools[0].blocks.rows = counted(snapshot.pools[0].blocks.rows)
          profile.events.rows = counted(profile.events.rows)
          return { snapshot, profile }
        }
        return { promise: counting(), task }
      }
      await manager.writeReport(join(directory(t), `report${extension}`))
    })
    // A row has 6 or 7 numbers, and a flag is read twice.
    assert.ok(most > 500 && most <= 1500 * 8, `${most} numbers in one turn of ${extension}`)
  }
  assert.equal(kept.length, pool.stats().liveAllocations)
})

test('a report of a manager that is disposed meanwhile is refused, and leaves no file', async (t) => {
  const path = directory(t)
  const manager = new MemoryManager({ backend: 'simulated' })
  const report = manager.writeReport(join(path, 'report.json'))
  manager.dispose()
  await rejects(report, 'ERR_MANAGER_DISPOSED')
  assert.deepEqual(readdirSync(path), [])
})

test('readers never see half a report', async (t) => {
  const path = join(directory(t), 'report.json')
  await writeReport(path, sourceOf(FULL))
  let writing = true
  const writes = (async () => {
    for (let at = 0; at < 20; at++) await writeReport(path, sourceOf(at % 2 === 0 ? nothing() : FULL))
    writing = false
  })()
  const seen = new Set()
  while (writing) {
    seen.add(JSON.parse(readFileSync(path, 'utf8')).snapshot.buffers.length)
    await new Promise(setImmediate)
  }
  await writes
  assert.deepEqual([...seen].sort(), [0, 40])
})

test('.json: follows the published schema, with addresses as text', async (t) => {
  const validate = new Ajv({ allErrors: true, strict: false }).compile(require('@rkllmjs/memory/snapshot.schema.json'))
  for (const source of [FULL, nothing()]) {
    const parsed = JSON.parse(await written(t, 'report.json', source))
    assert.ok(validate(parsed), JSON.stringify(validate.errors))
    const addresses = source.snapshot.buffers.map(({ address }) => `0x${address.toString(16)}`)
    assert.deepEqual(
      parsed.snapshot.buffers.map(({ address }) => address),
      addresses,
    )
    assert.deepEqual(parsed.profile.callSites, source.profile.callSites)
  }
  const wrong = JSON.parse(await written(t, 'report.json'))
  wrong.snapshot.buffers[0].address = 7
  delete wrong.profile.timeline[0].timeMs
  wrong.snapshot.pools[0].kind = 'gpu'
  assert.equal(validate(wrong), false)
  assert.equal(new Set(validate.errors.map(({ instancePath }) => instancePath)).size, 3)
})

test('.pb.gz: pprof reads every call site, its frames, values and tag', async (t) => {
  const { stringTable, ...decoded } = Profile.decode(gunzipSync(await written(t, 'report.pb.gz')))
  const text = (at) => stringTable.strings[Number(at)]
  assert.equal(text(0), '')
  assert.deepEqual(
    decoded.sampleType.map(({ type, unit }) => [text(type), text(unit)]),
    [
      ['inuse_space', 'bytes'],
      ['inuse_objects', 'count'],
      ['alloc_space', 'bytes'],
      ['alloc_objects', 'count'],
    ],
  )
  const functions = new Map(decoded.function.map((each) => [Number(each.id), each]))
  const locations = new Map(decoded.location.map((each) => [Number(each.id), each]))
  const sites = decoded.sample.map(({ locationId, value, label }) => {
    const frames = locationId.map((id) => {
      const [{ functionId, line }] = locations.get(Number(id)).line
      const { name, filename } = functions.get(Number(functionId))
      return `at ${text(name)} (${text(filename)}:${line}:11)`
    })
    const [liveBytes, liveCount, totalBytes, totalCount] = value.map(Number)
    const tag = label.length === 0 ? null : text(label[0].str)
    return { stack: frames.join('\n'), tag, liveBytes, liveCount, totalBytes, totalCount }
  })
  assert.deepEqual(sites, profile.callSites)
  assert.deepEqual(
    [text(decoded.periodType.type), Number(decoded.period), text(decoded.defaultSampleType)],
    ['space', 524_288, 'inuse_space'],
  )
  assert.equal(Number(decoded.timeNanos / 1_000_000n), profile.startedAt)
  assert.equal(Number(decoded.durationNanos), 36e9)
})

test('.pb.gz: stacks of all kinds, and figures beyond 32 bits', async (t) => {
  const stacks = [
    'at new Foo (file:///a%20b/c.mjs:1:2)',
    'at async /x/y.js:3:4\nat node:internal/main:10:11',
    'at Array.map (<anonymous>)',
    '(other call sites)',
    '',
    'at eval (eval at f (/e.js:5:6), <anonymous>:7:8)',
  ]
  const callSites = stacks.map((stack) => ({
    stack,
    tag: null,
    liveBytes: 2 ** 45 + 0.4,
    liveCount: 0,
    totalBytes: 2 ** 53 - 1,
    totalCount: 1,
  }))
  const { stringTable, ...decoded } = Profile.decode(
    gunzipSync(await written(t, 'r.pb.gz', { ...FULL, profile: { ...profile, callSites } })),
  )
  const text = (at) => stringTable.strings[Number(at)]
  const named = decoded.function.map(({ name, filename }) => `${text(name)} ${text(filename)}`)
  const expected = [
    'new Foo /a%20b/c.mjs',
    '(anonymous) /x/y.js',
    '(anonymous) node:internal/main',
    'Array.map <anonymous>',
    '(other call sites) ',
    '(unknown) ',
    'eval eval at f (/e.js:5:6), <anonymous>',
  ]
  assert.deepEqual(named, expected)
  assert.deepEqual(decoded.sample[0].value.map(Number), [2 ** 45, 0, 2 ** 53 - 1, 1])
})

test('go tool pprof opens it', { skip: needsCommand('go') }, async (t) => {
  const path = join(directory(t), 'report.pb.gz')
  await writeReport(path, sourceOf(FULL))
  const { status, stdout, stderr } = spawnSync('go', ['tool', 'pprof', '-top', '-unit=b', path], { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  assert.match(stdout, /Type: inuse_space/)
  assert.ok(stdout.includes(`${profile.callSites[0].liveBytes}B`), stdout)
})

test('.trace.json: counters, lives that begin and end in order, names', async (t) => {
  const { traceEvents, otherData } = JSON.parse(await written(t, 'report.trace.json'))
  assert.equal(otherData.droppedEvents, 120)
  const of = (phase) => traceEvents.filter(({ ph }) => ph === phase)
  assert.equal(of('C').length, profile.timeline.length * 3)
  assert.deepEqual(
    of('C')
      .filter(({ name }) => name === 'NPU used')
      .map(({ ts, args }) => [ts, args.bytes]),
    profile.timeline.map(({ timeMs, npuUsed }) => [timeMs * 1000, npuUsed]),
  )
  const count = (...types) => profile.events.filter(({ type }) => types.includes(type)).length
  assert.equal(of('b').length, count('allocate'))
  assert.equal(of('e').length, count('free', 'collect'))
  assert.equal(of('i').length, count('fail', 'grow', 'trim', 'move'))
  const begun = new Map(of('b').map((event) => [event.id, event]))
  assert.equal(begun.size, of('b').length, 'every life has an id of its own')
  for (const { id, name, ts } of of('e')) {
    assert.equal(begun.get(id).name, name)
    assert.ok(begun.get(id).ts <= ts)
    begun.delete(id)
  }
  assert.deepEqual([...new Set(of('M').map(({ name }) => name))], ['process_name', 'thread_name'])
  for (const event of traceEvents)
    assert.ok(Number.isInteger(event.pid) && Number.isInteger(event.tid) && (event.ph === 'M' || event.ts >= 0))
})

test('.trace.json: a reused id is another lifetime', async (t) => {
  const event = { kind: 'npu', size: 1, tag: 'a', pool: null, id: 7 }
  const events = ['free', 'allocate', 'free', 'allocate'].map((type, timeUs) => ({ ...event, type, timeUs }))
  const { traceEvents } = JSON.parse(
    await written(t, 'r.trace.json', { ...FULL, profile: { ...profile, events, timeline: [] } }),
  )
  const lives = traceEvents.filter(({ ph }) => ph !== 'M').map(({ ph, id }) => [ph, id])
  assert.deepEqual(lives, [
    ['i', undefined],
    ['b', '0x1'],
    ['e', '0x1'],
    ['b', '0x2'],
  ])
})

test('.html: one file that loads nothing, with names escaped', async (t) => {
  const html = String(await written(t, 'report.html'))
  assert.equal(html.match(/<script/g).length, 2, 'the data and the script')
  assert.equal(html.match(/<\/script>/g).length, 2)
  assert.doesNotMatch(html, /alert\(1\)<\/script>|\u2028/)
  assert.doesNotMatch(html, /(?:src|href)="(?!#|data:)|url\(|@import|https?:/)
  const [, policy] = /http-equiv="Content-Security-Policy" content="([^"]+)"/.exec(html)
  assert.match(policy, /^default-src 'none'/)
  assert.doesNotMatch(policy, /unsafe|http|\*/)
  const embedded = JSON.parse(/<script type="application\/json" id="data">(.*?)<\/script>/s.exec(html)[1])
  assert.ok(embedded.strings.includes(HOSTILE))
  const blocks = snapshot.pools.flatMap(({ chunkMaps }) =>
    chunkMaps.flatMap(({ blocks }) => blocks.filter(({ id }) => id !== null)),
  )
  assert.equal(embedded.holders.id.length, snapshot.buffers.length + blocks.length)
})
