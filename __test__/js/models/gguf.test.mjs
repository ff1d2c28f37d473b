/** GGUF files: their head gives the shape and the weights, without reading the rest. */

import assert from 'node:assert/strict'
import fs, { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { estimateModelMemory, planModels } from '../../../index.js'
import { gguf } from '../../support/gguf.mjs'
import { GiB, MiB, refuses } from '../../support/helpers.mjs'

const [F32, F16, Q4_0, Q8_0, Q4_K] = [0, 1, 2, 8, 12]
const [LAYERS, HIDDEN, HEADS, KV_HEADS, VOCABULARY] = [4, 256, 8, 2, 1000]
const metadata = {
  'general.architecture': 'llama',
  'llama.block_count': LAYERS,
  'llama.embedding_length': HIDDEN,
  'llama.attention.head_count': HEADS,
  'llama.attention.head_count_kv': KV_HEADS,
  'llama.context_length': 8192,
  'tokenizer.ggml.tokens': Array.from({ length: VOCABULARY }, (_, i) => `token ${i}`),
}
const square = HIDDEN * HIDDEN
const tensor = (name, type, bytes, shape = [HIDDEN, HIDDEN]) => ({ name, shape, type, bytes })
const tensors = [
  tensor('token_embd.weight', Q8_0, (VOCABULARY * HIDDEN * 34) / 32, [HIDDEN, VOCABULARY]),
  tensor('blk.0.attn_q.weight', Q8_0, (square * 34) / 32),
  tensor('blk.0.attn_k.weight', Q4_0, (square * 18) / 32),
  tensor('blk.0.attn_v.weight', F16, square * 2),
  tensor('blk.0.ffn_up.weight', Q4_K, (square * 144) / 256),
  tensor('blk.0.attn_norm.weight', F32, HIDDEN * 4, [HIDDEN]),
]

function files(t) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-gguf-'))
  t.after(() => rmSync(folder, { recursive: true }))
  return (name, { head, size }) => {
    writeFileSync(join(folder, name), head)
    if (size !== undefined) truncateSync(join(folder, name), size)
    return join(folder, name)
  }
}

test('weights by the table of tensors, the cache by the metadata, the domain by the types of the NPU', (t) => {
  const path = files(t)('model.gguf', gguf(metadata, tensors))
  const found = estimateModelMemory({ path, contextLength: 4096 })
  const npu = square * 1 + square * 0.5 + square * 2
  const cpu = (VOCABULARY * HIDDEN * 34) / 32 + (square * 144) / 256 + HIDDEN * 4
  assert.equal(found.weights, cpu + npu)
  assert.equal(found.domain.bytes, npu)
  assert.ok(found.domain.max > npu)
  assert.equal(found.kvCache, 2 * LAYERS * KV_HEADS * (HIDDEN / HEADS) * 2 * 4096)
  assert.equal(found.loaded, found.full, 'llama.cpp clears the whole cache at once')
  assert.deepEqual([found.architecture, found.source, found.basis], ['llama', 'file', 'arithmetic'])
  assert.match(found.warnings.join(), /rk-llama\.cpp converts/)
  assert.match(estimateModelMemory({ path, contextLength: 16384 }).warnings.join(), /trained for 8192 tokens/)
})

test('a search for a context that fits reads the head once more, not for each context', (t) => {
  const path = files(t)('model.gguf', gguf(metadata, tensors))
  const device = {
    backend: 'rknpu', simulated: false, path: null, soc: 'rk3588', driverVersion: '0.9.8', npuCores: 3, iommu: true,
    iommuDomains: 16, domainBytes: 4 * GiB, sramTotal: 0, sramFree: 0,
  }
  const spec = { name: 'a', path, contextLength: 150_000, calibration: false }
  const { full, uncertainty } = estimateModelMemory({ path, contextLength: 75_000 })
  const opened = t.mock.method(fs, 'openSync')
  const ramAvailable = Math.ceil(full * (1 + uncertainty))
  const { fits, reason } = planModels([spec], device, { ramAvailable, keepFree: 0 })
  assert.deepEqual([fits, /a context of \d+ instead of 150000/.test(reason)], [false, true], reason)
  // The head and the tensors, for the plan and for the search.
  assert.equal(opened.mock.calls.filter(({ arguments: [opens] }) => opens === path).length, 4)
})

test('a model without types of the NPU, and one in parts', (t) => {
  const file = files(t)
  const parts = { ...metadata, 'split.count': 3 }
  const path = file('model-00001-of-00003.gguf', gguf(parts, [tensors[4]]))
  const found = estimateModelMemory({ path, contextLength: 512 })
  assert.equal(found.domain.bytes, 0)
  assert.match(found.warnings.join(), /one of 3 parts/)
  assert.match(found.warnings.join(), /the CPU does all/)
})

test('a list of heads, one for each layer, and tensors of four GiB', (t) => {
  const listed = { ...metadata, 'llama.attention.head_count_kv': [0, 4, 0, 4] }
  const large = tensor('blk.0.ffn.weight', F16, 4 * GiB, [65536, 32768])
  const found = estimateModelMemory({ path: files(t)('a.gguf', gguf(listed, [large])), contextLength: 512 })
  assert.equal(found.weights, 4 * GiB)
  assert.equal(found.kvCache, 2 * 2 * 4 * (HIDDEN / HEADS) * 2 * 512)
})

test('damaged files are refused with the reason', (t) => {
  const file = files(t)
  const whole = gguf(metadata, tensors)
  const refused = (name, made, pattern) => {
    const path = file(name, made)
    const error = refuses(() => estimateModelMemory({ path, contextLength: 1 }), 'ERR_UNSUPPORTED', name)
    assert.match(error.message, pattern)
    assert.equal(error.path, path)
    assert.ok(error.hint)
  }
  refused('cut.gguf', { ...whole, size: whole.size - 64 }, /truncated/)
  refused('head.gguf', { ...whole, size: 2000 }, /ends early/)
  refused('version.gguf', { ...gguf(metadata, tensors, { version: 1 }), size: MiB }, /version 1/)
  refused('type.gguf', gguf(metadata, [tensor('odd', 77, 64)]), /unknown type \(77\)/)
  refused('renamed.rkllm', whole, /in spite of its name/)
  const counts = Buffer.from(whole.head)
  counts.fill(0xff, 8, 16)
  refused('counts.gguf', { head: counts, size: whole.size }, /beyond every file/)
  for (let at = 24; at < 400; at += 7) {
    const bytes = Buffer.from(whole.head)
    bytes.fill(0xff, at, at + 8)
    const path = file(`fuzz-${at}.gguf`, { head: bytes, size: whole.size })
    try {
      estimateModelMemory({ path, contextLength: 64 })
    } catch (error) {
      assert.equal(error.code, 'ERR_UNSUPPORTED', `${at}: ${error.stack}`)
    }
  }
})
