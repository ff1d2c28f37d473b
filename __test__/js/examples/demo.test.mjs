/** A small run of the demo, and the faults that it promises to detect. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { generateWorkload, readTrace } from '../../../examples/demo/workload.mjs'

const MAIN = fileURLToPath(new URL('../../../examples/demo/main.mjs', import.meta.url))
const demo = (...args) => spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8' })
const row = (stdout, name) => new RegExp(`│ ${name} +│ +(.+?) │`).exec(stdout)?.[1]

test('a small run: every byte right, every buffer back', () => {
  const { status, stdout, stderr } = demo('--requests', '20', '--seed', '7')
  assert.equal(status, 0, stderr + stdout)
  assert.equal(stderr, '')
  assert.equal(row(stdout, 'Requests served'), '20')
  assert.equal(row(stdout, 'Bytes wrong'), '0')
  assert.equal(row(stdout, 'Buffers lost'), '0')
  assert.equal(row(stdout, 'Kernel objects left, beside the empty slab kept'), '0')
  const tokens = generateWorkload(20, 7).reduce((sum, { context, generated }) => sum + context + generated, 0)
  assert.equal(row(stdout, 'Tokens'), tokens.toLocaleString('en-US'))
  assert.match(stdout, /simulated/)
  assert.doesNotMatch(stdout, /\r|\x1b/, 'no progress bar without a terminal')
})

test('the demo finds a wrong byte', () => {
  const { status, stdout, stderr } = demo('--requests', '10', '--corrupt')
  assert.equal(status, 1)
  assert.equal(row(stdout, 'Bytes wrong'), '1')
  assert.match(stderr, /1 bytes were wrong/)
})

for (const buffer of ['embeddings', 'logits', 'kv-cache']) {
  test(`the demo finds a missing sync of ${buffer}`, () => {
    const { status, stdout, stderr } = demo('--requests', '4', '--forget-sync', buffer)
    assert.equal(status, 1, stdout)
    assert.match(stderr, /FAILED: [\d,]+ bytes were wrong/)
  })
}

test('the demo finds a lost buffer', () => {
  const { status, stdout, stderr } = demo('--requests', '10', '--lose')
  assert.equal(status, 1)
  assert.equal(row(stdout, 'Buffers lost'), '1')
  assert.match(stderr, /1 buffers were lost/)
})

test('--trace reads the Azure format', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'rkllm-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'trace.csv')
  writeFileSync(
    file,
    'TIMESTAMP,ContextTokens,GeneratedTokens\r\n' +
      '2023-11-16 23:59:59.9799600,130,10\r\n2023-11-17 00:00:00.0319600,4808,3\r\n2023-11-17 00:00:01.0000000,1,0\r\n',
  )
  const requests = readTrace(file)
  assert.deepEqual(requests.map(({ context, generated }) => [context, generated]), [[130, 10], [4808, 3], [1, 0]])
  const gaps = requests.map(({ arrival }) => Math.round(arrival * 1e4) / 1e4)
  assert.deepEqual(gaps, [0, 0.052, 1.02])

  const { status, stdout, stderr } = demo('--trace', file)
  assert.equal(status, 0, stderr)
  assert.equal(row(stdout, 'Requests served'), '3')
  assert.equal(row(demo('--trace', file, '--requests', '2').stdout, 'Requests served'), '2')
})

test('an unreadable trace fails with its line', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'rkllm-'))
  t.after(() => rmSync(directory, { recursive: true }))
  const file = join(directory, 'trace.csv')
  for (const [text, message] of [
    ['a,b,c\n1,2,3\n', /no column "TIMESTAMP"/],
    ['TIMESTAMP,ContextTokens,GeneratedTokens\n', /no requests/],
    ['TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,x,1\n', /trace\.csv:2/],
    ['TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,5,1\nnonsense\n', /trace\.csv:3/],
    ['TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,0,1\n', /trace\.csv:2/],
  ]) {
    writeFileSync(file, text)
    assert.throws(() => readTrace(file), message)
  }
  const missing = demo('--trace', join(directory, 'none.csv'))
  assert.equal(missing.status, 1)
  assert.match(missing.stderr, /ENOENT/)
})

test('options: --help, and unknown ones', () => {
  const help = demo('--help')
  assert.equal(help.status, 0)
  for (const option of ['--trace', '--requests', '--seed', '--corrupt', '--lose', '--forget-sync'])
    assert.match(help.stdout, new RegExp(option))
  for (const args of [
    ['--reqests', '5'],
    ['--requests', '0'],
    ['--requests', 'many'],
    ['--seed', '-1'],
    ['--requests'],
    ['--forget-sync', 'token-ids'],
  ]) {
    const { status, stderr } = demo(...args)
    assert.equal(status, 1, args.join(' '))
    assert.match(stderr, /ERR_PARSE_ARGS/)
  }
})

test('the generator: the same seed, the same requests; the trace\'s means', () => {
  assert.deepEqual(generateWorkload(100, 3), generateWorkload(100, 3))
  assert.notDeepEqual(generateWorkload(100, 3), generateWorkload(100, 4))
  const requests = generateWorkload(50_000, 1)
  const mean = (name) => requests.reduce((sum, request) => sum + request[name], 0) / requests.length
  assert.ok(Math.abs(mean('context') / 2048 - 1) < 0.05, `context ${mean('context')}`)
  assert.ok(Math.abs(mean('generated') / 27.9 - 1) < 0.1, `generated ${mean('generated')}`)
  // The pauses have a long tail: a few of them make up a tenth of the mean.
  assert.ok(Math.abs(requests.at(-1).arrival / requests.length / 0.39 - 1) < 0.25)
  assert.ok(
    requests.every(({ context, generated }) => context >= 3 && context <= 7437 && generated >= 6 && generated <= 1899),
  )
})
