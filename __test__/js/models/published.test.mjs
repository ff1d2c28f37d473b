/** Published configurations and figures: numbers of parameters, files, and language with vision. */

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { configOf } from '../../../benchmark/estimator/data.mjs'
import { compared } from '../../../benchmark/estimator/published.mjs'
import { estimateModelMemory } from '../../../index.js'
import { MiB } from '../../support/helpers.mjs'

const within = (actual, expected, share, what) =>
  assert.ok(Math.abs(actual / expected - 1) <= share, `${what}: ${actual}, published ${expected}`)

const words = (layers, hidden, inner, heads, kvHeads, vocabulary, more) => ({
  num_hidden_layers: layers, hidden_size: hidden, intermediate_size: inner, num_attention_heads: heads,
  num_key_value_heads: kvHeads, vocab_size: vocabulary, ...more,
})

/** Name → configuration, and the model's numbers less a separate table of input embeddings. */
const PARAMETERS = {
  'Llama-3.2-1B': [words(16, 2048, 8192, 32, 8, 128256, { model_type: 'llama', head_dim: 64 }), 1.236e9],
  'TinyLlama-1.1B': [words(22, 2048, 5632, 32, 4, 32000, { model_type: 'llama' }), 1.1e9 - 65.5e6],
  'Phi-3-mini': [words(32, 3072, 8192, 32, 32, 32064, { model_type: 'phi3' }), 3.82e9 - 98.5e6],
  'Gemma-2B': [words(18, 2048, 16384, 8, 1, 256000, { model_type: 'gemma', head_dim: 256 }), 2.506e9],
  'Gemma-2-2B': [words(26, 2304, 9216, 8, 4, 256000, { model_type: 'gemma2', head_dim: 256 }), 2.614e9],
  'Qwen2.5-1.5B': [words(28, 1536, 8960, 12, 2, 151936, { model_type: 'qwen2' }), 1.544e9],
  'MiniCPM-2B': [words(40, 2304, 5760, 36, 36, 122753, { model_type: 'minicpm' }), 2.72e9],
  // Qwen's first generation writes both gated widths into one number, Mistral leaves its heads to the class.
  'Qwen-1.8B': [words(24, 2048, 11008, 16, undefined, 151936, { model_type: 'qwen' }), 1.837e9 - 311e6],
  'Mistral-7B': [{ model_type: 'mistral', num_hidden_layers: 32, hidden_size: 4096 }, 7.242e9 - 131e6],
  'GPT-2': [{ model_type: 'gpt2', n_layer: 12, n_embd: 768, n_head: 12, vocab_size: 50257 }, 124e6],
  'Falcon-7B': [
    words(32, 4544, undefined, 71, undefined, 65024, { model_type: 'falcon', multi_query: true }),
    7.217e9 - 295e6,
  ],
  'Qwen1.5-MoE-A2.7B': [
    words(24, 2048, 5632, 16, 16, 151936, {
      model_type: 'qwen2_moe', num_experts: 60, moe_intermediate_size: 1408, shared_expert_intermediate_size: 5632,
    }),
    14.3e9 - 311e6,
  ],
}

for (const [name, [config, parameters]] of Object.entries(PARAMETERS)) {
  test(`${name}: counted weights are the published number of parameters`, () => {
    const { weights, warnings } = estimateModelMemory({ config, contextLength: 64, dtype: 'w8a8' })
    within(weights, parameters, 0.012, name)
    assert.doesNotMatch(warnings.join(), /unknown/)
  })
}

/** How near a kind of figures is; those of long contexts have their bands. */
const SHARES = { 'with vision': 0.12, 'vision alone': 0.08, allocation: 0, file: 0.03 }

for (const { model, kind, run, expected, found, error, within: inBand } of compared()) {
  test(`${kind}: ${model} ${run.dtype}, ${run.contextLength} tokens`, () => {
    if (kind === 'long context') assert.ok(inBand, `${found}, published ${expected}`)
    else assert.ok(Math.abs(error) <= SHARES[kind], `${found}, published ${expected}`)
  })
}

test('a published file with its configuration: as good as the configuration alone', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-published-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const file = (name, size) => {
    writeFileSync(join(folder, name), 'RKLLM')
    truncateSync(join(folder, name), size)
    return join(folder, name)
  }
  const config = configOf('Qwen3-VL 2B')
  // Qwen3-VL-2B w8a8: 2,273 MiB, and 1,869 MiB resident; w4a16_g128 is 11 to 16 % larger than weights and table.
  for (const [path, soc, resident] of [
    [file('a.rkllm', 2273 * MiB), 'rk3588', 1868.98],
    [file('b.rkllm', 1_674_660_000), 'rk3576', 1146.77],
  ]) {
    const both = estimateModelMemory({ path, config, contextLength: 192, soc })
    within(both.loaded, resident * MiB, 0.04, path)
    const alone = estimateModelMemory({ config, contextLength: 192, soc, dtype: both.dtype })
    assert.deepEqual([both.loaded, both.uncertainty, both.basis], [alone.loaded, alone.uncertainty, 'calibrated'])
  }
})

test('configurations of odd values: finite figures, or an error with a code', () => {
  let state = 11
  const next = (below) => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0), state % below)
  const base = {
    ...words(4, 256, 512, 4, 2, 1000, { model_type: 'llama' }),
    num_experts: 4, moe_intermediate_size: 64, kv_lora_rank: 8, qk_rope_head_dim: 8, full_attention_interval: 2,
    layer_types: ['a', 'full_attention', 'linear_attention', 'b'], decoder_sparse_step: 1, q_lora_rank: 4,
    vision_config: { depth: 2, hidden_size: 64 }, text_config: { num_hidden_layers: 4 }, first_k_dense_replace: 1,
    tie_word_embeddings: true, head_dim: 64,
  }
  const odd = [0, -1, 1.5, NaN, Infinity, null, '12', [], [1, 0, 1], {}, true, 2 ** 40, 2 ** 60, [null]]
  let estimated = 0
  for (let round = 0; round < 2000; round++) {
    const config = { ...base }
    for (let i = 0; i <= next(3); i++) config[Object.keys(base)[next(Object.keys(base).length)]] = odd[next(odd.length)]
    try {
      const found = estimateModelMemory({ config, contextLength: 1 + next(4096) })
      for (const name of ['weights', 'kvCache', 'loaded', 'full', 'uncertainty', 'loadedUncertainty'])
        assert.ok(Number.isFinite(found[name]) && found[name] >= 0, `${name} of ${JSON.stringify(config)}`)
      assert.ok(found.loaded <= found.full && found.domain.bytes <= found.domain.max, JSON.stringify(config))
      estimated++
    } catch (error) {
      const said = `${JSON.stringify(config)}\n${error.stack}`
      assert.match(String(error.code), /^ERR_(INVALID_ARG_TYPE|OUT_OF_RANGE)$/, said)
    }
  }
  assert.ok(estimated > 500, `${estimated}`)
})
