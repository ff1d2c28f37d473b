/** estimateModelMemory: its error on models outside the calibration set, and refused input. */

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { calibrates, configOf, NAMES, readRows } from '../../../benchmark/estimator/data.mjs'
import { calibrate, median } from '../../../benchmark/estimator/fit.mjs'
import { estimateModelMemory } from '../../../index.js'
import { GiB, MiB, refuses } from '../../support/helpers.mjs'

const shipped = createRequire(import.meta.url)('../../../src/js/models/fit.json')
const rows = readRows()
const near = (actual, expected, share, what) =>
  assert.ok(Math.abs(actual / expected - 1) <= share, `${what}: ${actual}, expected ${expected}`)

test('half of the models are held back, and all rows of a model are on one side', () => {
  assert.equal(rows.length, 66)
  assert.equal(NAMES.filter(calibrates).length, 7)
  assert.deepEqual(shipped.calibratedOn, NAMES.filter(calibrates))
})

test('held-back models, estimated from user input: median error below 8 %, 90 % of rows within the band', () => {
  const results = rows
    .filter(({ model }) => !calibrates(model))
    .map(({ model, chip, dtype, context, measured }) => {
      const { total, uncertainty } = estimateModelMemory({
        config: configOf(model),
        contextLength: context,
        dtype,
        soc: chip,
      })
      return { error: Math.abs(total - measured) / measured, band: uncertainty * total >= Math.abs(total - measured) }
    })
  assert.equal(results.length, 35)
  assert.ok(median(results.map(({ error }) => error)) < 0.08)
  assert.ok(results.filter(({ band }) => band).length / results.length >= 0.9)
})

test('the calibration script reproduces the shipped coefficients from the table', () => {
  const { coefficients, uncertainty } = calibrate(rows)
  for (const [dtype, bytes] of Object.entries(shipped.coefficients.bytesPerWeight))
    near(coefficients.bytesPerWeight[dtype], bytes, 1e-5, dtype)
  near(coefficients.bytesPerToken, shipped.coefficients.bytesPerToken, 1e-5, 'bytesPerToken')
  near(coefficients.constant, shipped.coefficients.constant, 1e-5, 'constant')
  near(uncertainty, shipped.uncertainty, 1e-5, 'uncertainty')
})

test('the coefficients are physical: about a byte, half a byte, and scales', () => {
  const { w8a8, w4a16, w4a16_g128 } = shipped.coefficients.bytesPerWeight
  assert.ok(w8a8 > 1 && w8a8 < 1.1 && w4a16 > 0.5 && w4a16 < 0.6 && w4a16_g128 > w4a16 && w4a16_g128 < 0.65)
})

test('the KV cache: layers, GQA heads, context, batch, bytes', () => {
  const config = {
    model_type: 'llama', num_hidden_layers: 22, hidden_size: 2048, num_attention_heads: 32, num_key_value_heads: 4,
    intermediate_size: 5632, vocab_size: 32000,
  }
  const of = (spec) => estimateModelMemory({ config, contextLength: 2048, ...spec }).kvCache
  assert.equal(of({}), 2 * 22 * 4 * 64 * 2 * 2048)
  assert.equal(of({ contextLength: 4096 }), 2 * of({}))
  assert.equal(of({ batch: 3 }), 3 * of({}))
  assert.equal(of({ kvBytesPerElement: 1 }), of({}) / 2)
  assert.equal(of({ kvHeads: 32 }), 8 * of({}), 'a number in the spec goes before the configuration')
})

test('the totals are the sums of their parts', () => {
  for (const model of NAMES) {
    const e = estimateModelMemory({ config: configOf(model), contextLength: 2048, dtype: 'w4a16' })
    assert.equal(e.npuTotal, e.weights + e.kvCache + e.activations, model)
    assert.equal(e.total, e.npuTotal + e.hostBuffers, model)
    assert.ok(e.uncertainty > 0 && e.uncertainty < 0.2, model)
    assert.deepEqual(e.measured.length > 0 && e.derived.length > 0, true)
  }
})

test('numbers of parameters agree with published ones', () => {
  // From the models' pages. Without the input embeddings for models with a separate head.
  const known = {
    'Qwen2 0.5B': 494e6,
    'InternLM2 1.8B': 1889e6 - 190e6,
    'ChatGLM3 6B': 6244e6 - 266e6,
    'MiniCPM3 4B': 4074e6,
  }
  for (const [model, parameters] of Object.entries(known)) {
    const { weights } = estimateModelMemory({ config: configOf(model), contextLength: 1, dtype: 'w8a8' })
    near(weights / shipped.coefficients.bytesPerWeight.w8a8, parameters, 0.01, model)
  }
})

test('an unknown architecture, experts and latent attention: wider bands, and a note', () => {
  const config = { ...configOf('Qwen2 0.5B') }
  const plain = estimateModelMemory({ config, contextLength: 1024 })
  const odd = estimateModelMemory({ config: { ...config, model_type: 'frobnicator' }, contextLength: 1024 })
  assert.ok(odd.uncertainty > 3 * plain.uncertainty)
  assert.match(odd.warnings.join(), /frobnicator/)
  const experts = estimateModelMemory({ config: configOf('DeepSeekOCR 3B(A570M)'), contextLength: 1024 })
  assert.equal(experts.uncertainty, 2 * plain.uncertainty)
  assert.match(experts.warnings.join(), /experts/)
})

test('numbers alone: the estimate leaves out unknown parts, and notes them', () => {
  const bare = estimateModelMemory({ weightBytes: GiB, contextLength: 4096 })
  assert.equal(bare.weights, GiB)
  assert.equal(bare.kvCache, 0)
  assert.ok(bare.uncertainty >= 0.3)
  assert.match(bare.warnings.join(), /KV cache/)
  const more = estimateModelMemory({ weightBytes: GiB, contextLength: 4096, layers: 24, kvHeads: 2, headDim: 64 })
  assert.equal(more.kvCache, 2 * 24 * 2 * 64 * 2 * 4096)
})

function folder(t) {
  const path = mkdtempSync(join(tmpdir(), 'rkllm-models-'))
  t.after(() => rmSync(path, { recursive: true }))
  return (name, contents) => {
    writeFileSync(join(path, name), contents)
    return join(path, name)
  }
}

/** Builds the header of a .rknn file, as public readers of the format describe it. */
function rknn(size, told = size - 64) {
  const bytes = Buffer.alloc(size, 7)
  bytes.write('RKNN\0\0\0\0', 'latin1')
  bytes.writeBigUInt64LE(6n, 8)
  bytes.writeBigUInt64LE(BigInt(told), 16)
  return bytes
}

test('files: the file size is the size of the weights', (t) => {
  const file = folder(t)
  const llm = estimateModelMemory({
    path: file('a.rkllm', Buffer.alloc(MiB, 1)),
    config: configOf('Qwen2 0.5B'),
    contextLength: 512,
  })
  assert.equal(llm.weights, MiB)
  assert.equal(llm.source, 'file')
  const vision = estimateModelMemory({ path: file('a.rknn', rknn(MiB)) })
  assert.deepEqual([vision.weights, vision.kvCache, vision.source], [MiB, 0, 'file'])
})

test('files without a model, truncated or empty, are refused', (t) => {
  const file = folder(t)
  const refused = (name, contents, pattern) => {
    const error = refuses(
      () => estimateModelMemory({ path: file(name, contents), contextLength: 1 }),
      'ERR_UNSUPPORTED',
    )
    assert.match(error.message, pattern)
    assert.ok(error.hint)
  }
  refused('empty.rkllm', '', /empty/)
  refused('lfs.rkllm', 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n', /Git LFS/)
  refused('page.rknn', '<!doctype html><title>404</title>', /web page/)
  refused('zeros.rkllm', Buffer.alloc(MiB), /zeros/)
  refused('other.rkllm', Buffer.concat([Buffer.from('GGUF'), Buffer.alloc(MiB, 1)]), /GGUF/)
  refused('cut.rknn', rknn(MiB, 2 * MiB), /truncated/)
  refused('wrong.rknn', Buffer.alloc(MiB, 1), /does not begin/)
  refused('tiny.rkllm', 'abc', /small/)
  refuses(() => estimateModelMemory({ path: '/nowhere/a.rkllm', contextLength: 1 }), 'ERR_DEVICE_IO')
  refuses(() => estimateModelMemory({ path: tmpdir(), contextLength: 1 }), 'ERR_UNSUPPORTED')
})

test('config.json: by path, and errors that name the wrong field', (t) => {
  const file = folder(t)
  const config = configOf('Qwen3-VL 2B')
  const byPath = estimateModelMemory({ config: file('config.json', JSON.stringify(config)), contextLength: 512 })
  assert.deepEqual(byPath, estimateModelMemory({ config, contextLength: 512 }))
  refuses(() => estimateModelMemory({ config: file('b.json', '{'), contextLength: 1 }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => estimateModelMemory({ config: file('c.json', '[]'), contextLength: 1 }), 'ERR_INVALID_ARG_TYPE')
  const error = refuses(
    () => estimateModelMemory({ config: { model_type: 'llama' }, contextLength: 1 }),
    'ERR_INVALID_ARG_TYPE',
  )
  assert.match(error.message, /num_hidden_layers/)
  refuses(
    () => estimateModelMemory({ config: { ...configOf('Qwen2 0.5B'), num_hidden_layers: 1e9 }, contextLength: 1 }),
    'ERR_OUT_OF_RANGE',
  )
  refuses(
    () => estimateModelMemory({ config: { ...configOf('Qwen2 0.5B'), intermediate_size: 0 }, contextLength: 1 }),
    'ERR_INVALID_ARG_TYPE',
  )
})

test('bad input', () => {
  for (const spec of [
    undefined, null, 1, 'a.rkllm', [], {}, { contextLength: 1 }, { weightBytes: 1 },
    { weightBytes: '1', contextLength: 1 }, { weightByte: 1 }, { config: 3, contextLength: 1 },
  ]) {
    refuses(() => estimateModelMemory(spec), 'ERR_INVALID_ARG_TYPE', JSON.stringify(spec))
  }
  for (const wrong of [
    { contextLength: 0 },
    { contextLength: 1.5 },
    { weightBytes: -1 },
    { dtype: 'w2' },
    { batch: 0 },
  ]) {
    refuses(
      () => estimateModelMemory({ weightBytes: 1, contextLength: 1, ...wrong }),
      'ERR_OUT_OF_RANGE',
      JSON.stringify(wrong),
    )
  }
})
