/** A model on the understudy of librkllmrt, for suites: its file, a session, and runs that are read to their end. */

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'

import { buildUnderstudy, needsUnderstudy } from '../runtime/build.mjs'
import { noFfi } from './ffi.mjs'
import { assertNothingLeft, open } from './helpers.mjs'
import { loadRkllm } from './rkllm.mjs'

/** The reason why the understudy cannot be used here, or false. */
export const skip = needsUnderstudy() || noFfi
/** Bytes of the model's parts, and positions of its context. */
export const [WEIGHTS, KV, SCRATCH, CONTEXT] = [1 << 20, 4096, 1 << 16, 64]
export const ALL = WEIGHTS + KV * CONTEXT + SCRATCH
export const SPEC = {
  contextLength: CONTEXT, maxTokens: 16, hiddenSize: 8, vocabSize: 10,
  hiddenStates: { tokens: 16 }, logits: { tokens: 16 },
}

/** A folder of this process, and the model's file in it. */
export const folder = mkdtempSync(join(tmpdir(), 'understudy-'))
after(() => rmSync(folder, { recursive: true, force: true }))
export const file = join(folder, 'model')
const sizes = `weights = ${WEIGHTS}\nkv_per_token = ${KV}\nscratch = ${SCRATCH}\nhidden = 8\nvocab = 10\n`
writeFileSync(file, `RKLLM understudy model\n${sizes}`)

/**
 * A session and a model of `header`; `end` ends both and checks that nothing is left.
 *
 * @param {import('node:test').TestContext} t
 * @param {string} header
 * @param {object} [options] of the session's `param`, and as `spec` and `callbacks` more of the session
 */
export async function begin(t, header, { spec, callbacks, ...options } = {}) {
  const manager = open(t)
  const library = await loadRkllm(buildUnderstudy(header), header)
  const session = manager.createInferenceBuffers({ ...SPEC, header, ...spec })
  if (callbacks !== undefined) session.callbacks(callbacks)
  const model = library.model(manager, session)
  assert.equal(model.init(session.param({ model: file, maxNewTokens: 40, ...options })), 0)
  const idle = async () => {
    while (model.isRunning()) await turn()
  }
  const run = async (input, infer) => {
    const reading = all(session.results())
    assert.equal(model.runAsync(input, session.inferParam(infer)), 0)
    const found = await reading
    await idle()
    return found
  }
  const end = () => {
    assert.equal(model.destroy(), 0)
    session.dispose()
    assert.equal(library.bytesOf(options.domain ?? 0), 0)
    assertNothingLeft(manager)
  }
  return { manager, library, session, model, run, idle, end }
}

export async function all(results) {
  const found = []
  for await (const result of results) found.push(result)
  return found
}

export const textOf = (found) => found.map(({ text }) => text).join('')
