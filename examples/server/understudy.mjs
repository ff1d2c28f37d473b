/** The understudy of librkllmrt, in place of the vendor's library: built from __test__/runtime/ with the C compiler. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { buildUnderstudy } from '../../__test__/runtime/build.mjs'

const HIDDEN = 64
/** A model of the understudy states its sizes and nothing else. */
const MODEL = `RKLLM understudy model
weights = 16777216
kv_per_token = 4096
scratch = 1048576
hidden = ${HIDDEN}
vocab = 256
`
/** The weights, 4096 tokens of KV, and the process. */
const RAM = 128 * 2 ** 20

/** Builds the understudy of `header`, and writes a model, which is removed at the end of the process. */
export function makeUnderstudy(header) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-understudy-'))
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
  const file = join(folder, 'understudy.rkllm')
  writeFileSync(file, MODEL)
  return { library: buildUnderstudy(header), file, hidden: HIDDEN, ram: RAM }
}
