/** Plans of arenas: valid, as small as known, and every wrong list refused. */

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { planArena } from '../../../index.js'
import { command } from '../../support/command.mjs'
import { refuses } from '../../support/helpers.mjs'

const buffer = (id, lower, upper, size, more) => ({ id, lower, upper, size, ...more })

/** Checks a plan pair by pair. */
function assertValid({ size, placements }) {
  for (const [at, a] of placements.entries()) {
    assert.ok(a.offset % a.alignment === 0 && a.offset + a.size <= size)
    for (const b of placements.slice(0, at)) {
      const together = a.lower < b.upper && b.lower < a.upper
      const apart = a.offset + a.size <= b.offset || b.offset + b.size <= a.offset
      assert.ok(!together || apart, `${JSON.stringify(a)} and ${JSON.stringify(b)}`)
    }
  }
}

test('buffers that are never alive together share bytes, and the least arena is known as such', () => {
  // Three buffers of 4 over twelve bytes: a list of a published planner.
  const plan = planArena([
    buffer('b1', 0, 3, 4), buffer('b2', 3, 9, 4), buffer('b3', 0, 9, 4), buffer('b4', 9, 21, 4),
    buffer('b5', 0, 21, 4),
  ])
  assertValid(plan)
  assert.deepEqual([plan.size, plan.lowerBound, plan.isLeast, plan.fits], [12, 12, true, null])
  assert.deepEqual(plan.placements.map(({ id }) => id), ['b1', 'b2', 'b3', 'b4', 'b5'])
})

test('alignment, negative moments and large sizes', () => {
  const plan = planArena([
    buffer(1, -5, 5, 100, { alignment: 64 }), buffer(2, -9, 0, 2 ** 40, { alignment: 4096 }), buffer(3, 0, 9, 2 ** 40),
  ])
  assertValid(plan)
  assert.equal(plan.placements[0].alignment, 64)
  assert.ok(plan.size >= 2 ** 40 + 100 && plan.size <= 2 ** 40 + 4096)
})

test('a capacity that is reached, and one that is not', () => {
  const buffers = [buffer('a', 0, 2, 10), buffer('b', 1, 3, 10)]
  assert.equal(planArena(buffers, { capacity: 20 }).fits, true)
  const { fits, size, lowerBound } = planArena(buffers, { capacity: 19, maxMs: 0 })
  assert.deepEqual([fits, size, lowerBound], [false, 20, 20])
})

test('no buffers need no arena', () => {
  assert.deepEqual(planArena([]), { size: 0, lowerBound: 0, isLeast: true, fits: null, placements: [] })
})

test('wrong lists and options are refused, with the buffer', () => {
  const good = buffer('a', 0, 1, 1)
  const invalid = [[undefined], [null], [{}], ['a'], [[good, undefined]], [[null]], [[{ ...good, id: 1.5 }]]]
  for (const [list] of invalid) refuses(() => planArena(list), 'ERR_INVALID_ARG_TYPE', String(list))
  // eslint-disable-next-line no-sparse-arrays -- a hole is no buffer
  refuses(() => planArena([, good]), 'ERR_INVALID_ARG_TYPE')
  for (const [wrong, message] of [
    [{ ...good, upper: 0 }, /buffers\[0\] lives from 0 to 0/],
    [{ ...good, size: 0 }, /size/],
    [{ ...good, alignment: 3 }, /power of two/],
    [{ ...good, lower: 0.5 }, /lower/],
  ]) {
    assert.match(refuses(() => planArena([wrong]), 'ERR_OUT_OF_RANGE').message, message)
  }
  assert.match(refuses(() => planArena([good, good]), 'ERR_OUT_OF_RANGE').message, /buffers\[1\]: the id "a"/)
  assert.match(refuses(() => planArena([{ ...good, sise: 1 }]), 'ERR_INVALID_ARG_TYPE').hint, /size/)
  assert.match(refuses(() => planArena([good], { maxMS: 1 }), 'ERR_INVALID_ARG_TYPE').hint, /maxMs/)
  refuses(() => planArena([good], { capacity: 0 }), 'ERR_OUT_OF_RANGE')
  const huge = Array.from({ length: 3 }, (_, id) => buffer(id, 0, 1, 2 ** 52))
  const { message, hint, requested, limit } = refuses(() => planArena(huge), 'ERR_OUT_OF_RANGE')
  assert.match(message, /buffers\[1\]: the sizes and alignments/)
  assert.match(hint, /larger units/)
  assert.ok(requested > limit)
  refuses(() => planArena(Array.from({ length: 20_001 }, (_, id) => buffer(id, 0, 1, 1))), 'ERR_OUT_OF_RANGE')
})

test('rkllm-memory arena: a table, JSON, a picture, and what is wrong with a file', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-arena-'))
  const file = (name, text) => {
    writeFileSync(join(folder, name), text)
    return join(folder, name)
  }
  try {
    const list = file('list.csv', 'size, id, upper, lower, alignment\r\n64, a<b, 2, 0, 64\r\n32, b, 3, 1,\r\n')
    const svg = join(folder, 'plan.svg')
    const html = join(folder, 'plan.html')
    const { status, stdout } = await command(['arena', list, '--svg', svg, '--html', html])
    assert.equal(status, 0)
    assert.match(stdout, /2 buffers lie in 96 B/)
    assert.match(stdout, /96: no arena is smaller/)
    assert.match(readFileSync(svg, 'utf8'), /^<svg[^]*<title>a&#60;b: 64 bytes at 0[^]*<\/svg>\n$/)
    const page = readFileSync(html, 'utf8')
    assert.ok(page.includes(readFileSync(svg, 'utf8')), 'the page has the picture')
    assert.match(page, /<h1>2 buffers in 96 bytes<\/h1>[^]*no arena is smaller[^]*Without sharing: 96 bytes/)
    assert.match(page, /<tr><td>a&#60;b<\/td><td>64<\/td><td>0<\/td><td>0<\/td><td>2<\/td><td>64<\/td><\/tr>/)
    const style = /<style>([^]*)<\/style>/.exec(page)[1]
    const hash = createHash('sha256').update(style).digest('base64')
    assert.ok(page.includes(`content="default-src 'none'; style-src 'sha256-${hash}'"`), 'the policy allows the style')
    assert.doesNotMatch(page, /<script|<link|<img|style=/)
    const json = JSON.parse((await command(['arena', list, '--json'])).stdout)
    assert.deepEqual(json.placements.map(({ offset }) => offset), [0, 64])
    assert.equal((await command(['arena', list, '--capacity', '95', '--max-ms', '0'])).status, 1)

    const wrong = await command(['arena', file('wrong.csv', 'id,lower,size\na,0,1\n')])
    assert.deepEqual([wrong.status, wrong.stdout], [4, ''])
    assert.match(wrong.stderr, /no column upper/)
    const word = await command(['arena', file('word.csv', 'id,lower,upper,size\na,0,1,big\n')])
    assert.match(word.stderr, /line 2: size is "big"/)
    assert.equal((await command(['arena'])).status, 2)
    assert.equal((await command(['arena', join(folder, 'nowhere.csv')])).status, 4)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
