/** estimateModelMemory: its error on models outside the calibration set, and refused input. */

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { configOf, NAMES, readRows } from '../../../benchmark/estimator/data.mjs'
import { calibrate, heldBack, median } from '../../../benchmark/estimator/fit.mjs'
import { estimateModelMemory } from '../../../index.js'
import { GiB, MiB, refuses } from '../../support/helpers.mjs'

const require = createRequire(import.meta.url)
const shipped = require('../../../src/js/models/fit.json')
const { fileBytesOf } = require('../../../src/js/models/terms.js')
const { parametersOf } = require('../../../src/js/models/parameters.js')
const { shapeOf } = require('../../../src/js/models/shape.js')
const rows = readRows()
const near = (actual, expected, share, what) =>
  assert.ok(Math.abs(actual / expected - 1) <= share, `${what}: ${actual}, expected ${expected}`)

const qwen3 = (layers, hidden, wide, heads) => ({
  model_type: 'qwen3', num_hidden_layers: layers, hidden_size: hidden, intermediate_size: wide,
  num_attention_heads: heads, num_key_value_heads: 8, head_dim: 128, vocab_size: 151936, tie_word_embeddings: true,
})
const QWEN3_06 = qwen3(28, 1024, 3072, 16)

/** The errors and hits of `loaded` over rows, estimated as a user does. */
const byVersion = (version) =>
  rows
    .filter((row) => row.version === version)
    .map(({ model, chip, dtype, context, measured, version: runtime }) => {
      const estimate = estimateModelMemory({
        config: configOf(model), contextLength: context, dtype, soc: chip, runtime,
      })
      const error = Math.abs(estimate.full - measured)
      return { error: error / measured, within: error <= estimate.uncertainty * estimate.full }
    })

test('every family is held back once: medians and bands by runtime reach their goals', () => {
  assert.equal(rows.length, 189)
  const { table } = calibrate(rows)
  assert.deepEqual(table.map(({ runtime }) => runtime), ['1.1.4', '1.2.1', '1.2.2', '1.2.3', '1.3.0'])
  for (const { runtime, medianHeldBack, withinBand } of table) {
    assert.ok(medianHeldBack <= (runtime === '1.1.4' ? 0.08 : 0.025), `${runtime}: median ${medianHeldBack}`)
    assert.ok(withinBand >= 0.9, `${runtime}: ${withinBand} in the band`)
  }
  const families = new Set(heldBack(rows).map(({ row }) => row.family))
  assert.equal(families.size, 9)
})

test('from user input: the shipped coefficients reach the same goals', () => {
  for (const version of ['1.1.4', '1.2.1', '1.2.2', '1.2.3', '1.3.0']) {
    const results = byVersion(version)
    assert.ok(median(results.map(({ error }) => error)) <= (version === '1.1.4' ? 0.08 : 0.025), version)
    assert.ok(results.filter(({ within }) => within).length / results.length >= 0.9, version)
  }
})

test('the calibration script reproduces the shipped coefficients from the table', () => {
  const { coefficients, uncertainty } = calibrate(rows)
  const same = (actual, expected, what) =>
    typeof expected === 'number'
      ? assert.ok(Math.abs(actual - expected) <= 1e-4 * Math.abs(expected), `${what}: ${actual}, shipped ${expected}`)
      : Object.keys(expected).forEach((key) => same(actual[key], expected[key], `${what}.${key}`))
  same(coefficients, shipped.coefficients, 'coefficients')
  same(uncertainty, shipped.uncertainty, 'uncertainty')
})

test('`full` adds the rest of the KV cache to `loaded`, which has that of a first short prompt', () => {
  const found = estimateModelMemory({ config: QWEN3_06, contextLength: 16384, dtype: 'w8a8' })
  assert.equal(found.full, found.total)
  assert.equal(found.full - found.loaded, (found.kvCache / 16384) * (16384 - 192))
  const short = estimateModelMemory({ config: QWEN3_06, contextLength: 192, dtype: 'w8a8' })
  assert.equal(short.loaded, short.full)
  assert.equal(short.uncertainty, short.loadedUncertainty)
})

test('before 1.2.0 the embeddings are in RAM as float32; since then embedFlash decides', () => {
  const of = (more) => estimateModelMemory({ config: QWEN3_06, contextLength: 512, dtype: 'w8a8', ...more })
  const table = 151936 * 1024 * 4
  const [old, current, inRam] = [of({ runtime: '1.1.4' }), of({}), of({ embedFlash: false })]
  assert.equal(inRam.loaded - current.loaded, table)
  assert.ok(old.hostBuffers > table && old.loaded > current.loaded + table / 2)
  assert.ok(inRam.loadedUncertainty > current.loadedUncertainty)
  assert.match(inRam.warnings.join(), /embedFlash/)
  assert.match(of({ runtime: '1.1.4', embedFlash: true }).warnings.join(), /no embed_flash/)
  assert.equal(of({ runtime: '1.1.4', embedFlash: true }).loaded, old.loaded)
  assert.equal(current.runtime, '1.3.0')
  assert.equal(of({ runtime: 'v1.2.3' }).runtime, '1.2.2')
  assert.match(of({ runtime: '2.0.0' }).warnings.join(), /no measurements of runtime 2\.0\.0/)
  for (const runtime of ['', 'new', '1', 'v1.x']) refuses(() => of({ runtime }), 'ERR_OUT_OF_RANGE', runtime)
})

test('every dtype of rkllm-toolkit: smaller groups take more scales', () => {
  const of = (dtype) => estimateModelMemory({ config: QWEN3_06, contextLength: 512, dtype })
  for (const base of ['w8a8', 'w4a16']) {
    const sizes = ['', '_g512', '_g256', '_g128', '_g64', '_g32'].map((group) => of(base + group).weights)
    sizes.slice(1).forEach((size, i) => assert.ok(size > sizes[i], `${base}: ${sizes}`))
    assert.ok(sizes[5] < 1.5 * sizes[0])
  }
  assert.equal(of('w4a8_g32').weights, of('w4a16_g32').weights)
  assert.match(of('w4a16_g32').warnings.join(), /no measurements of w4a16_g32/)
  assert.ok(of('w4a16_g32').loadedUncertainty > of('w4a16_g128').loadedUncertainty)
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
    near(weights, parameters, 0.01, model)
  }
  // Phi-2 has no gates: 2.78 billion with its separate table of embeddings.
  const phi = {
    model_type: 'phi', num_hidden_layers: 32, hidden_size: 2560, intermediate_size: 10240, num_attention_heads: 32,
    vocab_size: 51200,
  }
  const { weights } = estimateModelMemory({ config: phi, contextLength: 1, dtype: 'w8a8' })
  near(weights, 2.78e9 - 51200 * 2560, 0.01, 'phi')
})

test('a configuration that does not tell the weights is refused, and the missing field is named', () => {
  const { intermediate_size: _, ...config } = { ...configOf('Qwen2 0.5B'), model_type: 'lfm2' }
  const error = refuses(() => estimateModelMemory({ config, contextLength: 192 }), 'ERR_INVALID_ARG_TYPE')
  assert.match(error.message, /the weights are unknown: the configuration has no intermediate_size$/)
})

test('an unknown architecture and experts: wider bands, and a note', () => {
  const config = { ...configOf('Qwen2 0.5B') }
  const plain = estimateModelMemory({ config, contextLength: 192 })
  for (const model_type of ['frobnicator', 'constructor']) {
    const odd = estimateModelMemory({ config: { ...config, model_type }, contextLength: 192 })
    assert.ok(odd.uncertainty > 3 * plain.uncertainty)
    assert.ok(odd.warnings.join().includes(model_type))
  }
  const experts = estimateModelMemory({ config: configOf('DeepSeekOCR 3B(A570M)'), contextLength: 192 })
  assert.ok(experts.uncertainty > 2 * plain.uncertainty)
  assert.match(experts.warnings.join(), /experts/)
})

test('fields that a published configuration leaves out have the family\'s defaults, and are named', () => {
  // google/gemma-3-4b-it as published: heads, their width and the vocabulary are the defaults of the class.
  const config = {
    model_type: 'gemma3',
    text_config: { hidden_size: 2560, intermediate_size: 10240, model_type: 'gemma3_text', num_hidden_layers: 34 },
    vision_config: { hidden_size: 1152, intermediate_size: 4304, num_hidden_layers: 27, patch_size: 14 },
  }
  const { weights, warnings, vision } = estimateModelMemory({ config, contextLength: 192, dtype: 'w8a8' })
  near(weights, 3.88e9, 0.01, 'gemma-3-4b')
  assert.match(warnings.join(), /vocab_size, num_attention_heads, num_key_value_heads to the defaults of "gemma3_text"/)
  near(vision, 2 * 417e6, 0.1, "SigLIP's 417 million numbers")
  const error = refuses(
    () =>
      estimateModelMemory({
        config: { model_type: 'odd', num_hidden_layers: 2, hidden_size: 64, num_attention_heads: 2 },
        contextLength: 1,
      }),
    'ERR_INVALID_ARG_TYPE',
  )
  assert.match(error.message, /no vocab_size$/)
})

test('a vision part is a figure of its own, and warned of', () => {
  const vision_config = {
    model_type: 'qwen2_5_vl', depth: 32, hidden_size: 1280, intermediate_size: 3420, out_hidden_size: 2048,
    patch_size: 14, spatial_merge_size: 2, temporal_patch_size: 2,
  }
  const words = { ...configOf('Qwen3-VL 2B') }
  const both = estimateModelMemory({ config: { ...words, vision_config }, contextLength: 512 })
  const alone = estimateModelMemory({ config: words, contextLength: 512 })
  // rknn-llm#195: the runtime asks for 1,427,746,880 bytes.
  near(both.vision, 1_427_746_880, 0.02, 'the vision part of Qwen2.5-VL-3B')
  assert.equal(both.loaded, alone.loaded)
  assert.match(both.warnings.join(), /vision part/)
  assert.equal(alone.vision, null)
  const encoder = estimateModelMemory({ config: { ...words, vision_config }, type: 'vision' })
  assert.equal(encoder.weights, both.vision)
  const heard = estimateModelMemory({ config: { ...words, audio_config: {} }, contextLength: 512 })
  assert.match(heard.warnings.join(), /audio part/)
  const unknown = estimateModelMemory({ config: { ...words, vision_config: {} }, contextLength: 512 })
  assert.match(unknown.warnings.join(), /of unknown size/)
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

/** Makes a sparse file. */
function sparse(path, size) {
  writeFileSync(path, 'RKLL')
  truncateSync(path, size)
  return path
}

const sizeOf = (config, dtype) => Math.ceil(fileBytesOf(parametersOf(shapeOf(config).shape), dtype))

test('a .rkllm file holds the embeddings too: with a configuration the estimate is that of the configuration', (t) => {
  const file = folder(t)
  const config = QWEN3_06
  const alone = estimateModelMemory({ config, contextLength: 512, dtype: 'w8a8' })
  // 909 MB are published for Qwen3-0.6B w8a8.
  near(sizeOf(config, 'w8a8'), 909e6, 0.01, 'the size of the file')
  const path = sparse(file('qwen3.rkllm', ''), sizeOf(config, 'w8a8'))
  const both = estimateModelMemory({ path, config, contextLength: 512 })
  for (const figure of ['loaded', 'full', 'loadedUncertainty', 'uncertainty']) assert.equal(both[figure], alone[figure])
  assert.deepEqual([both.dtype, both.source, both.basis], ['w8a8', 'file', 'calibrated'])
  assert.match(both.warnings.join(), /taken for w8a8, by its size/)
  const [bare] = [estimateModelMemory({ path, contextLength: 512 })]
  near(bare.weights, alone.weights, 0.15, 'without a configuration: less a typical table')
})

test('the type of a file: by its name, by its size, and a note where the spec disagrees', (t) => {
  const file = folder(t)
  const config = QWEN3_06
  const grouped = sparse(file('qwen3-w4a16_g128.rkllm', ''), Math.ceil(sizeOf(config, 'w4a16_g128') * 1.03))
  const named = estimateModelMemory({ path: grouped, config, contextLength: 512 })
  assert.deepEqual([named.dtype, named.warnings], ['w4a16_g128', []])
  const small = sparse(file('qwen3.rkllm', ''), sizeOf(config, 'w4a16'))
  const wrong = estimateModelMemory({ path: small, config, contextLength: 512, dtype: 'w8a8' })
  assert.equal(wrong.dtype, 'w4a16')
  assert.match(wrong.warnings.join(), /predicts .* as w8a8: its size is that of w4a16/)
  const other = sparse(file('other.rkllm', ''), 5 * GiB)
  const apart = estimateModelMemory({ path: other, config, contextLength: 512, dtype: 'w8a8' })
  assert.match(apart.warnings.join(), /do not belong together/)
  assert.ok(apart.loadedUncertainty >= 0.3 && apart.weights > 4 * GiB)
})

test('.rknn and safetensors files', (t) => {
  const file = folder(t)
  const vision = estimateModelMemory({ path: file('a.rknn', rknn(MiB)) })
  assert.deepEqual([vision.weights, vision.kvCache, vision.source], [MiB, 0, 'file'])
  const length = Buffer.from([64, 0, 0, 0, 0, 0, 0, 0])
  const head = Buffer.concat([length, Buffer.from('{"__metadata__":{}}'), Buffer.alloc(MiB)])
  const source = { path: file('model.safetensors', head), contextLength: 512 }
  const weights = estimateModelMemory(source)
  assert.ok(Math.abs(weights.weights - MiB / 2) < 64)
  assert.match(weights.warnings.join(), /safetensors file, which no runtime of the NPU loads/)
  const known = estimateModelMemory({ ...source, config: QWEN3_06, dtype: 'w8a8' })
  assert.equal(known.loaded, estimateModelMemory({ config: QWEN3_06, contextLength: 512, dtype: 'w8a8' }).loaded)
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
