/** The understudy's callbacks for tokens and embeddings, and what only some versions have. */

import assert from 'node:assert/strict'
import { readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import { HEADERS, buildUnderstudy } from '../../runtime/build.mjs'
import { assertNothingLeft, open, refuses, rejects, runChild, runtime } from '../../support/helpers.mjs'
import { loadResultThread } from '../../support/result-thread.mjs'
import { SPEC, begin, file, folder, skip, textOf } from '../../support/understudy.mjs'
import { headers } from '../../../src/js/inference/layouts.js'

const thread = skip ? undefined : await loadResultThread()
const WIDTH = SPEC.hiddenSize

/** Small numbers that half precision has. */
const numberAt = (seed) => (index) => ((index * 7 + seed) % 64) / 4

/** The half-precision bits of a number of `numberAt`. */
function halfOf(value) {
  const [bits] = new Uint32Array(Float32Array.of(value).buffer)
  return value === 0 ? 0 : (bits >>> 13) - (112 << 10)
}

let tables = 0
/** Writes a table of `rows` rows, after `before` bytes. Returns its path. */
function table({ rows = 256, dtype = 'float32', seed = 1, width = WIDTH, before = 0, behind = 0 } = {}) {
  const numbers = Array.from({ length: rows * width }, (_, index) => numberAt(seed)(index))
  const data = dtype === 'float32' ? Float32Array.from(numbers) : Uint16Array.from(numbers, halfOf)
  const path = join(folder, `table-${++tables}`)
  writeFileSync(path, Buffer.concat([Buffer.alloc(before, 255), Buffer.from(data.buffer), Buffer.alloc(behind, 255)]))
  return path
}

/** The answer to `prompt` with a table. */
async function answer(t, embeddingTable, prompt = 'abc') {
  const { session, run, end } = await begin(t, '1.3', { callbacks: { embeddingTable } })
  const found = await run(session.promptInput(prompt))
  end()
  return textOf(found)
}

test('embeddings come from the table: its rows decide the answer, not how they are stored', { skip }, async (t) => {
  const plain = await answer(t, { path: table(), dtype: 'float32' })
  assert.notEqual(await answer(t, { path: table({ seed: 2 }), dtype: 'float32' }), plain)
  const stored = [
    { path: table({ dtype: 'float16' }), dtype: 'float16' },
    { path: table({ before: 13 }), dtype: 'float32', offset: 13 },
    { path: table({ dtype: 'float16', before: 1, behind: 5 }), dtype: 'float16', offset: 1, rows: 256 },
    { path: table({ behind: 100 * WIDTH }), dtype: 'float32', width: WIDTH, rows: 256 },
  ]
  for (const way of stored) assert.equal(await answer(t, way), plain, JSON.stringify(way))
})

test('a table is mapped once in a process, read-only and shared, and goes with its sessions', { skip }, async (t) => {
  const path = table()
  const mappings = () => readFileSync('/proc/self/maps', 'utf8').split('\n').filter((line) => line.includes(path))
  const manager = open(t)
  const sessions = [0, 1].map(() => {
    const session = manager.createInferenceBuffers(SPEC)
    session.callbacks({ embeddingTable: { path, dtype: 'float32' } })
    return session
  })
  assert.equal(mappings().length, 1)
  assert.match(mappings()[0], / r--s /)
  sessions[0].dispose()
  assert.equal(mappings().length, 1)
  sessions[1].releaseCallbacks()
  assert.equal(mappings().length, 0)
  sessions[1].dispose()
  assertNothingLeft(manager)
})

test('a token that the table does not have ends the run with the reason, also midway', { skip }, async (t) => {
  const { session, model, run, idle, end } = await begin(t, '1.3', {
    ignoreEos: true,
    callbacks: { embeddingTable: { path: table({ rows: 123 }), dtype: 'float32' } },
  })
  const failed = await rejects(run(session.promptInput('é')), 'ERR_OUT_OF_RANGE')
  await idle()
  assert.match(failed.message, /the row of token 195; the table has 123 rows/)
  // Tokens of an answer are below 123, but for the halves of characters.
  let broken = 0
  for (let prompt = 0; prompt < 40; prompt++) {
    const results = session.results()
    const found = []
    assert.equal(model.runAsync(session.promptInput(String(prompt)), session.inferParam()), 0)
    try {
      for await (const result of results) found.push(result)
      assert.ok(found.every(({ tokenId }) => tokenId < 123))
    } catch ({ code, message }) {
      assert.equal(code, 'ERR_OUT_OF_RANGE', message)
      assert.match(message, /the row of token 195;/)
      assert.deepEqual(found.filter(({ tokenId }) => tokenId >= 123).map(({ state }) => state), ['waiting'])
      broken++
    }
    await idle()
  }
  assert.ok(broken > 0)
  end()
})

test('rows of another width or type end the run; so does a file that shrinks', { skip }, async (t) => {
  const wrong = [
    { path: table({ width: 4 }), dtype: 'float32', width: 4 },
    { path: table({ width: 4, dtype: 'float16' }), dtype: 'float16', width: 4 },
  ]
  for (const embeddingTable of wrong) {
    const spec = { hiddenSize: undefined, hiddenStates: false }
    const { session, run, end } = await begin(t, '1.3', { spec, callbacks: { embeddingTable } })
    const { message } = await rejects(run(session.promptInput('abc')), 'ERR_OUT_OF_RANGE')
    assert.match(message, /wants 96 bytes for 3 tokens/)
    end()
  }
  const path = table()
  const { session, run, end } = await begin(t, '1.3', { callbacks: { embeddingTable: { path, dtype: 'float32' } } })
  const before = textOf(await run(session.promptInput('abc')))
  const other = `${path}-other`
  writeFileSync(other, readFileSync(path))
  renameSync(other, path)
  assert.equal(textOf(await run(session.promptInput('abc'))), before, 'a file that was replaced stays as it was')
  end()
  const again = await begin(t, '1.3', { callbacks: { embeddingTable: { path, dtype: 'float32' } } })
  truncateSync(path, 4096)
  await rejects(again.run(again.session.promptInput('abc')), 'ERR_DEVICE_IO')
  again.end()
})

test('a table that cannot be one is refused with what was found', { skip }, (t) => {
  const manager = open(t)
  const session = manager.createInferenceBuffers(SPEC)
  const path = table({ rows: 10 })
  const refused = (embeddingTable, code) => refuses(() => session.callbacks({ embeddingTable }), code)
  const whole = { path, dtype: 'float32' }
  refused({ ...whole, rows: 11 }, 'ERR_OUT_OF_RANGE')
  refused({ ...whole, offset: 1 }, 'ERR_OUT_OF_RANGE')
  refused({ ...whole, offset: 2 ** 53 - 1 }, 'ERR_OUT_OF_RANGE')
  refused({ ...whole, path: table({ rows: 10, behind: 1 }) }, 'ERR_OUT_OF_RANGE')
  refused({ ...whole, width: WIDTH + 1 }, 'ERR_OUT_OF_RANGE')
  refused({ ...whole, rows: 0 }, 'ERR_OUT_OF_RANGE')
  refused({ ...whole, path: '' }, 'ERR_OUT_OF_RANGE')
  refused({ ...whole, path: 'a\0b' }, 'ERR_OUT_OF_RANGE')
  refused({ ...whole, dtype: 'float64' }, 'ERR_OUT_OF_RANGE')
  refused({ ...whole, row: 10 }, 'ERR_INVALID_ARG_TYPE')
  refused({ path }, 'ERR_INVALID_ARG_TYPE')
  refused(path, 'ERR_INVALID_ARG_TYPE')
  refused({ ...whole, path: `${path}-absent` }, 'ERR_DEVICE_IO')
  refused({ ...whole, path: folder }, 'ERR_UNSUPPORTED')
  session.callbacks({ embeddingTable: whole })
  session.dispose()
  const unsized = manager.createInferenceBuffers({ maxTokens: 8 })
  refuses(() => unsized.callbacks({ embeddingTable: whole }), 'ERR_INVALID_ARG_TYPE')
  unsized.dispose()
  for (const header of ['1.1', '1.2.0', '1.2']) {
    const older = manager.createInferenceBuffers({ ...SPEC, header })
    refuses(() => older.callbacks({ embeddingTable: whole }), 'ERR_UNSUPPORTED')
    older.dispose()
  }
  assertNothingLeft(manager)
})

test('a tokenizer of the program gives the tokens of a prompt', { skip }, async (t) => {
  const tokenizer = thread.tokenizer()
  const { session, run, end } = await begin(t, '1.3', { callbacks: { tokenizer, tokenizerUserdata: 1000n } })
  await run(session.promptInput('a bb dddd'), { mode: 'hiddenStates' })
  const rows = [0, 1, 2].map((row) => session.hiddenStates[row * WIDTH])
  assert.deepEqual(rows, [1001, 1002 + 1000, 1004 + 2000])
  end()
  const failing = await begin(t, '1.3', { callbacks: { tokenizer } })
  assert.equal(failing.model.run(failing.session.promptInput('a'), failing.session.inferParam()), -1)
  failing.end()
})

test('destroy waits for a run that is inside rkllm_run of another thread', { skip }, () => {
  const { result } = runChild('destroy-during-run.mjs', {
    args: [skip ? '' : buildUnderstudy('1.3'), file, thread?.path],
    env: { UNDERSTUDY_MS_PER_TOKEN: '900000' },
  })
  assert.deepEqual(result, { init: 0, started: 0, destroyed: 0, left: 0 })
})

const noStructs = runtime !== 'node' && 'needs koffi: bun:ffi has no structs'
for (const header of HEADERS) {
  const since121 = header === '1.2' || header === '1.3'

  test(`${header}: function tools and cross attention are taken while no run is under way`, {
    skip: skip || !since121,
  }, async (t) => {
    const crossAttention = { layers: 2, heads: 1, headDim: 4, tokens: 4 }
    const { session, model, run, end } = await begin(t, header, { spec: { crossAttention } })
    assert.equal(model.setFunctionTools('Be brief.', '[{"name":"time"}]', 'tool_response'), 0)
    assert.equal(model.setCrossAttention(session.crossAttention()), 0)
    assert.equal(model.setCrossAttention(0n), -1)
    assert.equal((await run(session.promptInput('abc'))).at(-1).state, 'finish')
    end()
  })

  test(`${header}: rkllm_createDefaultParam returns a struct of its version`, { skip: skip || noStructs }, async () => {
    const { default: koffi } = await import('koffi')
    const { size, fields } = headers[header].RKLLMParam
    const type = koffi.struct({ bytes: koffi.array('uint8_t', size) })
    const { bytes } = koffi.load(buildUnderstudy(header)).func('rkllm_createDefaultParam', type, [])()
    const view = new DataView(Uint8Array.from(bytes).buffer)
    const int = (name) => view.getInt32(fields[name].offset, true)
    const float = (name) => view.getFloat32(fields[name].offset, true)
    assert.deepEqual([int('max_context_len'), int('max_new_tokens'), int('top_k')], [512, 128, 1])
    assert.deepEqual([float('top_p'), float('mirostat_tau')], [Math.fround(0.9), 5])
    assert.equal(view.getUint8(fields.skip_special_token.offset), 1)
    assert.equal(view.getBigUint64(fields.model_path.offset, true), 0n)
  })
}
