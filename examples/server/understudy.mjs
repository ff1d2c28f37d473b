/** The understudy of librkllmrt, in place of the vendor's library: built from __test__/runtime/ with the C compiler. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { buildUnderstudy } from '../../__test__/runtime/build.mjs'

const HIDDEN = 64
/** A model of the understudy states its sizes and nothing else. */
const MODEL = `RKLLM understudy model
weights = 67108864
kv_per_token = 4096
scratch = 1048576
hidden = ${HIDDEN}
vocab = 256
`

/** Builds the understudy of `header`, and writes a model. `remove` removes the model once it is loaded. */
export function makeUnderstudy(header) {
  const library = buildUnderstudy(header)
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-understudy-'))
  const file = join(folder, 'understudy.rkllm')
  writeFileSync(file, MODEL)
  return { library, file, hidden: HIDDEN, remove: () => rmSync(folder, { recursive: true, force: true }) }
}
