/** 'progress' of loads: bytes of the model's file, the load's own report, in this process and in a worker. */

import assert from 'node:assert/strict'
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { MiB, rejects } from '../../support/helpers.mjs'
import { residency } from '../../support/residency.mjs'

const { residentOf } = createRequire(import.meta.url)('../../../src/js/residency/load-progress.js')
const worker = new URL('../../support/workers/model.mjs', import.meta.url)
const SIZE = 4 * MiB

function modelFile(t) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-progress-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'some.rkllm')
  writeFileSync(path, Buffer.alloc(SIZE, 1))
  return path
}

/** A residency, and a function that waits for an event 'progress' that is as wanted. */
function watched(t, models) {
  const made = residency(t, models)
  const seen = []
  const waiting = []
  made.on('progress', (event) => {
    seen.push(event)
    for (const { wanted, resolve } of waiting) if (wanted(event)) resolve(event)
  })
  const next = (wanted) => new Promise((resolve) => waiting.push({ wanted, resolve }))
  return { made, seen, next }
}

const spec = (path) => ({ path, type: 'vision', ramBytes: 64 * MiB })

test('a load that reads its file is told of as far as it has read', async (t) => {
  const path = modelFile(t)
  const load = async () => {
    const fd = openSync(path)
    for (const part of [SIZE / 4, SIZE / 2]) {
      while (readSync(fd, Buffer.alloc(SIZE / 4)) > 0) if ((read += SIZE / 4) === part) break
      await next(({ bytes }) => bytes === part)
    }
    closeSync(fd)
    return {}
  }
  let read = 0
  const { made, seen, next } = watched(t, { chat: { ...spec(path), load } })
  await made.preload('chat')
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(seen.map(({ name, bytes, total }) => [name, bytes, total]), [
    ['chat', SIZE / 4, SIZE],
    ['chat', SIZE / 2, SIZE],
  ])
  assert.ok(seen.every(({ ms }) => ms > 0))
})

test("a load's own report is told in place of its file, at once, and only while it loads", async (t) => {
  let late
  const load = async ({ progress }) => {
    for (const [bytes, total] of [[0], [5, 10], [3], [7]]) progress(bytes, total)
    late = progress
    return {}
  }
  const { made, seen } = watched(t, { chat: { ramBytes: MiB, load } })
  await made.preload('chat')
  late(9)
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(seen.map(({ bytes, total }) => [bytes, total]), [[0, undefined], [5, 10], [7, 10]])
})

test('a report that is no number of bytes fails the load', async (t) => {
  for (const [report, code] of [
    [['1'], 'ERR_INVALID_ARG_TYPE'], [[-1], 'ERR_OUT_OF_RANGE'], [[1, NaN], 'ERR_OUT_OF_RANGE'],
  ]) {
    const { made } = watched(t, { chat: { ramBytes: MiB, load: ({ progress }) => progress(...report) } })
    await rejects(made.preload('chat'), code)
  }
  const inWorker = { module: worker, args: ['report', '[-1]'] }
  await assert.rejects(residency(t, { chat: { ramBytes: MiB, worker: inWorker } }).preload('chat'), /progress: /)
})

test('a worker reports its progress, and is told of by what its process reads', async (t) => {
  const path = modelFile(t)
  const reports = { module: worker, args: ['report', '[5,10]'] }
  const reads = { module: worker, args: ['read', path] }
  const { made, seen, next } = watched(t, {
    reports: { ramBytes: MiB, worker: reports },
    reads: { ...spec(path), worker: reads },
  })
  await made.preload('reports')
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(seen.map(({ name, bytes, total }) => [name, bytes, total]), [['reports', 5, 10]])
  const whole = next(({ name, bytes }) => name === 'reads' && bytes === SIZE)
  const controller = new AbortController()
  const loading = made.preload('reads', { signal: controller.signal })
  const { total } = await whole
  assert.equal(total, SIZE)
  controller.abort()
  await assert.rejects(loading, { name: 'AbortError' })
})

test('of mappings the resident bytes of the file count, and of no other file', () => {
  const mapping = (path, kib) =>
    `7f00-7f10 r--p 00000000 fe:00 42    ${path}\nSize:   9 kB\nRss:    ${kib} kB\nPss:  1 kB\n`
  const smaps = [['/m/a.rkllm', 8], ['', 100], ['/m/a.rkllm', 4], ['/m/a.rkllm.bak', 16], ['/other /m/b', 32]]
  const text = smaps.map(([path, kib]) => mapping(path, kib)).join('')
  assert.equal(residentOf(text, '/m/a.rkllm'), 12 * 1024)
  assert.equal(residentOf(text, '/m/c'), 0)
  assert.equal(residentOf(readFileSync('/proc/self/smaps', 'utf8'), '/m/a.rkllm'), 0)
})
