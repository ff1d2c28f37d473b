/** benchmark/scale.mjs: its options, and the shape of its results. No test looks at a time. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { runtime } from '../../support/helpers.mjs'

const MAIN = fileURLToPath(new URL('../../../benchmark/scale.mjs', import.meta.url))
const flags = runtime === 'deno' ? ['run', '--allow-all', '--no-check'] : []
const scale = (...words) => spawnSync(process.execPath, [...flags, MAIN, ...words], { encoding: 'utf8' })

test('a wrong option is refused, and a wrong row lists the rows', () => {
  const option = scale('--quik')
  assert.equal(option.status, 2)
  assert.match(option.stderr, /there is no option --quik\ndid you mean --quick\?/)
  const row = scale('--row', 'nothing')
  assert.equal(row.status, 2)
  assert.match(row.stderr, /no row has "nothing" in its name\nthe rows: .*getMemoryStats/)
})

test('--json: machine, command, and each row with its peer', () => {
  const { status, stdout, stderr } = scale('--quick', '--json', '--row', 'live tags')
  assert.equal(status, 0, stderr)
  assert.equal(stderr, '', 'no progress bar without a terminal')
  const { machine, command, results } = JSON.parse(stdout)
  assert.match(machine, /^Node v/)
  assert.equal(command, 'node benchmark/scale.mjs --quick --json --row live tags')
  assert.equal(results.length, 1)
  const [{ size, unit, reach, peer, subject, ratio }] = results
  assert.deepEqual({ size, unit, reach }, { size: 1600, unit: 'µs', reach: '5 µs' })
  for (const { median, p999, max, samples } of [peer, subject]) {
    assert.equal(samples, 400)
    assert.ok(median > 0 && median <= p999 && p999 <= max)
  }
  assert.equal(ratio, subject.median / peer.median)
})

test('the table has a line for each row, and names the benchmarks of the Rust part', () => {
  const { status, stdout } = scale('--quick', '--row', 'deallocate')
  assert.equal(status, 0)
  assert.match(stdout, /^\| one deallocate, after others \| 600 : 6,000 \| [\d.]+ : [\d.]+ µs \|.*\| 200 µs \|$/m)
  assert.match(stdout, /cargo bench .*--bench suballoc-extremes/)
})
