/** The soak: its options, and what its verdict calls growth. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { verdictOf } from '../../../benchmark/soak/verdict.mjs'
import { runtime } from '../../support/helpers.mjs'

const MAIN = fileURLToPath(new URL('../../../benchmark/soak/main.mjs', import.meta.url))
const flags = runtime === 'deno' ? ['run', '--allow-all', '--no-check'] : []
const soak = (...words) => spawnSync(process.execPath, [...flags, MAIN, ...words], { encoding: 'utf8' })

for (const [words, about] of [
  [['--hour', '1'], /there is no option --hour\ndid you mean --hours\?/],
  [['--hours', '0'], /--hours is "0"; it must be 0\.001 to 1000 hours/],
  [['--hours', 'long'], /--hours is "long"/],
  [['--hours'], /--hours needs a value: --hours H/],
  [['--live', '1e9'], /--live is "1e9"; it must be a whole number/],
  [['now'], /one word too many: "now"/],
]) {
  test(`soak ${words.join(' ')}: refused`, () => {
    const { status, stdout, stderr } = soak(...words)
    assert.equal(status, 2, stderr)
    assert.equal(stdout, '')
    assert.match(stderr, about)
  })
}

test('--help lists every option', () => {
  const { status, stdout } = soak('--help')
  assert.equal(status, 0)
  for (const option of ['hours', 'live', 'tags', 'rate', 'latency', 'workers', 'every', 'seed', 'csv'])
    assert.match(stdout, new RegExp(`^  --${option} `, 'm'))
})

const MiB = 2 ** 20
const sizes = { rss: 500 * MiB, heap: 60 * MiB, vm: 2 ** 40 }
const row = { ...sizes, maps: 1000, fds: 100, live: 1000, tags: 900, lost: 0, wrong: 0 }
/** Sixty rows, with `change(figure of the row, minute)` for one figure. */
const rowsWith = (figure, change) =>
  Array.from({ length: 60 }, (_, minute) => ({ ...row, [figure]: change(row[figure], minute) }))

test('a figure that stays, moves up and down, or grows in the warm-up alone has not grown', () => {
  assert.deepEqual(verdictOf(rowsWith('rss', (rss) => rss)).grew, [])
  assert.deepEqual(verdictOf(rowsWith('rss', (rss, minute) => rss + (minute % 2) * 300 * MiB)).grew, [])
  assert.deepEqual(verdictOf(rowsWith('tags', (tags, minute) => Math.min(tags, 80 * minute))).grew, [])
  assert.equal(verdictOf(rowsWith('rss', (rss) => rss)).compared.length, 7)
})

for (const [figure, aMinute] of [['rss', 5 * MiB], ['heap', 5 * MiB], ['maps', 10], ['fds', 1], ['vm', 60 * MiB],
  ['live', 5], ['tags', 10]]) {
  test(`a leak of ${figure} is found`, () => {
    const { grew } = verdictOf(rowsWith(figure, (first, minute) => first + minute * aMinute))
    assert.equal(grew.length, 1)
    assert.match(grew[0], new RegExp(`^${figure} grew: \\d+ → \\d+$`))
  })
}

test('one lost object or one wrong byte is a fault, in the shortest soak too', () => {
  const once = (figure) => verdictOf(rowsWith(figure, (_, minute) => (minute === 3 ? 1 : 0)).slice(0, 5)).grew
  assert.deepEqual(once('lost'), ['1 objects, mappings or slices were lost'])
  assert.deepEqual(once('wrong'), ['1 buffers had other bytes than were written'])
})

test('a few rows are not compared', () => {
  const rows = rowsWith('rss', (rss, minute) => rss * (1 + minute)).slice(0, 5)
  assert.deepEqual(verdictOf(rows), { grew: [], compared: [] })
})
