/** Progress of long work: a bar on a terminal, and nothing where standard error is no terminal. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { runtime } from '../../support/helpers.mjs'
import { needsTerminal, terminal } from '../../support/terminal.mjs'

const { makeProgress } = createRequire(import.meta.url)('../../../src/js/cli/progress.js')

/** A stream that keeps what is written. */
function streamOf(others) {
  const written = []
  return { written, stream: { write: (text) => written.push(text), ...others } }
}

test('a bar on a terminal: its share, its detail, at most its width', () => {
  const { written, stream } = streamOf({ isTTY: true, columns: 60 })
  const progress = makeProgress(stream, 200)
  progress.update(50, () => 'x'.repeat(100))
  assert.equal(written.length, 1)
  assert.match(written[0], /^\r█{8}░{22} {2}25 % {2}x+…\x1b\[K$/)
  assert.ok(written[0].length - '\r\x1b[K'.length <= 59)
  progress.clear()
  assert.equal(written[1], '\r\x1b[K')
})

test('a bar is drawn at most ten times a second, and asks for its detail only then', () => {
  const { written, stream } = streamOf({ isTTY: true, columns: 80 })
  const progress = makeProgress(stream, 1000)
  const asked = []
  for (let done = 0; done < 1000; done++) progress.update(done, () => `${asked.push(done)}`)
  assert.equal(asked.length, written.length)
  assert.ok(written.length < 1000)
})

test('a total of nothing is all done', () => {
  const { written, stream } = streamOf({ isTTY: true, columns: 80 })
  makeProgress(stream, 0).update(0)
  assert.match(written[0], /█{30} +100 %/)
})

test('nothing is written where there is no terminal', () => {
  const { written, stream } = streamOf({})
  const progress = makeProgress(stream, 10)
  progress.update(5, () => assert.fail('nobody reads it'))
  progress.clear()
  assert.deepEqual(written, [])
})

const path = (name) => fileURLToPath(new URL(`../../../${name}`, import.meta.url))
const MAIN = path('src/js/cli/main.js')
const SOAK = path('benchmark/soak/main.mjs')

/** A log that takes long enough for the first look at the progress. */
function logFile(t) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-progress-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const rows = Array.from({ length: 2000 }, (_, at) => `allocate,0x${(at + 1).toString(16)},64,0`)
  writeFileSync(join(folder, 'log.csv'), `Action,Pointer,Size,Stream\n${rows.join('\n')}\n`)
  return join(folder, 'log.csv')
}

const soak = ['--hours', '0.001', '--every', '1', '--live', '200', '--rate', '100', '--workers', '60']
/** Program → its words, and how its standard output ends. */
const PROGRAMS = {
  bench: [MAIN, () => ['bench', '--backend', 'simulated', '--rounds', '3'], /pool\.allocate \+ free/],
  replay: [MAIN, (t) => ['replay', logFile(t)], /Everything fits/],
  'the demo': [path('examples/demo/main.mjs'), () => ['--requests', '10'], /every buffer came back/],
  'the soak': [SOAK, () => soak, /every byte was right/],
}

for (const [name, [main, words, ends]] of Object.entries(PROGRAMS)) {
  test(`${name}: a bar on a terminal`, { skip: needsTerminal }, async (t) => {
    const started = terminal(t, words(t), {}, main)
    await started.closed
    assert.match(started.screen(), /\r[█░]{30} +\d+ %/)
    assert.match(started.screen(), ends)
    assert.match(started.screen(), /status=0/)
  })

  test(`${name}: no bar in a file`, (t) => {
    const flags = runtime === 'deno' ? ['run', '--allow-all', '--no-check'] : []
    const { status, stdout, stderr } = spawnSync(process.execPath, [...flags, main, ...words(t)], { encoding: 'utf8' })
    assert.equal(status, 0, stderr + stdout)
    assert.equal(stderr, '')
    assert.doesNotMatch(stdout, /[\r\x1b]/)
    assert.match(stdout, ends)
  })
}
