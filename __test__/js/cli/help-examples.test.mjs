/** The examples of --help run, in a folder with the files that they name. */

import assert from 'node:assert/strict'
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'

import { configOf } from '../../../benchmark/estimator/data.mjs'
import { command, NAMES } from '../../support/command.mjs'
import { examplesOf } from '../../support/help-examples.mjs'

const folder = mkdtempSync(join(tmpdir(), 'rkllm-examples-'))
const home = process.cwd()
before(() => process.chdir(folder))
after(() => {
  process.chdir(home)
  rmSync(folder, { recursive: true })
})

const sparse = (name, head, size) => {
  writeFileSync(join(folder, name), head)
  truncateSync(join(folder, name), size)
}
// A head of a .rknn file: magic, zeros, version, bytes that follow.
const rknn = Buffer.alloc(64, 7)
rknn.write('RKNN\0\0\0\0', 'latin1')
rknn.writeBigUInt64LE(6n, 8)
rknn.writeBigUInt64LE(600_000n, 16)
sparse('vision.rknn', rknn, 1_000_000)
// Qwen2-0.5B: 494 million numbers, and the float16 table of 151,936 rows of 896.
sparse('qwen.rkllm', 'RKLLM', 494_000_000 + 2 * 151_936 * 896)
writeFileSync(join(folder, 'config.json'), JSON.stringify(configOf('Qwen2 0.5B')))
writeFileSync(join(folder, 'dmesg'), '[ 12.3] Out of memory: Killed process 7 (llm_demo) anon-rss:5242880kB\n')
// A program that loads a model and waits for a prompt.
writeFileSync(join(folder, 'llm_demo'), '#!/bin/sh\necho rkllm init success\nexec sleep 600\n', { mode: 0o755 })
process.env.XDG_STATE_HOME = folder
writeFileSync(join(folder, 'log.csv'), 'Thread,Time,Action,Pointer,Size,Stream\n1,0.1,allocate,0x10,1048576,0\n')

writeFileSync(join(folder, 'lifetimes.csv'), 'id,lower,upper,size\na,0,2,4096\nb,1,3,1024\n')

const found = await Promise.all(NAMES.map(async (name) => [name, await examplesOf(name)]))

test('the commands over files have examples', () => {
  const named = found.filter(([, examples]) => examples.length > 0).map(([name]) => name)
  for (const name of ['doctor', 'estimate', 'explain', 'measure', 'plan', 'replay'])
    assert.ok(named.includes(name), name)
})

for (const [name, examples] of found) {
  for (const { line, words } of examples.filter(({ piped }) => piped === null)) {
    test(`${name}: ${line}`, async () => {
      const { status, stderr } = await command(words)
      // The doctor of this machine may find a failure, and says where it saved.
      if (name === 'doctor') assert.ok(status <= 1 && /^(?:|saved to \S+\n)$/.test(stderr), stderr)
      // The output of a measured program goes to standard error.
      else if (name === 'measure') assert.deepEqual([status, stderr], [0, 'rkllm init success\n'])
      else assert.deepEqual([status, stderr], [0, ''])
    })
  }
  for (const { line, words } of examples.filter(({ piped }) => piped !== null)) {
    test(`${name}: ${line}`, async (t) => {
      const fd = openSync(join(folder, 'dmesg'))
      t.after(() => closeSync(fd))
      const { status, stdout, stderr } = await command(words, { stdin: { fd } })
      assert.deepEqual([status, stderr], [0, ''])
      assert.match(stdout, /lack of RAM/)
    })
  }
}
