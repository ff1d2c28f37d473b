'use strict'

// Model families: the kind of their layers, and the values that a config.json of the family leaves out.
//
// A published config.json has only the fields that differ from the defaults of the family's class in Hugging Face
// transformers. `layers` and `hiddenSize` have no default here: a config without them describes no model.

/** @typedef {'gated' | 'plain' | 'rwkv'} Family the kind of layers that `parameters.js` can count */

/** Families with a gated feed-forward part: three matrices a layer. */
const GATED = [
  'llama', 'mistral', 'ministral', 'mixtral', 'yi', 'baichuan', 'internlm', 'internlm2', 'internlm3', 'aquila',
  'qwen', 'qwen2', 'qwen2_moe', 'qwen2_vl', 'qwen2_vl_text', 'qwen2_5_vl', 'qwen2_5_vl_text', 'qwen2_5_omni_text',
  'qwen3', 'qwen3_moe', 'qwen3_vl', 'qwen3_vl_text', 'qwen3_vl_moe', 'qwen3_vl_moe_text', 'qwen3_next', 'qwen3_5',
  'qwen3_5_text', 'qwen3_5_moe', 'qwen3_5_moe_text', 'qwen3_omni_moe_text',
  'gemma', 'gemma2', 'gemma3', 'gemma3_text', 'gemma3n', 'gemma3n_text', 'gemma4', 'gemma4_text',
  'phi3', 'phi4', 'minicpm', 'minicpm3', 'minicpmv', 'minicpmo', 'chatglm', 'glm', 'glm4', 'telechat', 'telechat2',
  'exaone', 'exaone4', 'granite', 'smollm3', 'stablelm', 'cohere', 'olmo', 'olmo2', 'hunyuan_v1_dense',
  'ernie4_5', 'deepseek_v2', 'deepseek_v3', 'deepseek_vl_v2', 'helium', 'seed_oss', 'mistral3', 'smolvlm',
  'idefics3', 'internvl', 'internvl_chat', 'multi_modality', 'llava', 'llava_onevision', 'paligemma',
]

/** Families with two matrices in the feed-forward part of a layer. */
const PLAIN = [
  'phi', 'gpt2', 'gpt_neo', 'gpt_neox', 'gptj', 'opt', 'bloom', 'falcon', 'mpt', 'gpt_bigcode', 'starcoder2',
  'nemotron', 'codegen',
]

/** @type {Record<string, Family>} */
const KINDS = {
  ...Object.fromEntries(GATED.map((name) => [name, /** @type {Family} */ ('gated')])),
  ...Object.fromEntries(PLAIN.map((name) => [name, /** @type {Family} */ ('plain')])),
  rwkv7: 'rwkv',
}

/** @type {(architecture: string | null) => Family | null} */
const familyOf = (architecture) => (Object.hasOwn(KINDS, architecture ?? '') ? KINDS[architecture ?? ''] : null)

/**
 * @typedef {object} Defaults the values of a class in transformers
 * @property {number} vocabSize
 * @property {number} heads
 * @property {number} [kvHeads] as many as `heads` if absent
 * @property {number} [headDim] hiddenSize / heads if absent
 * @property {number} [intermediateSize]
 * @property {boolean} [tied]
 */

/** @type {Defaults} */
const llama = { vocabSize: 32_000, heads: 32, intermediateSize: 11_008, tied: false }
/** @type {Defaults} */
const qwen2 = { vocabSize: 151_936, heads: 32, kvHeads: 32, intermediateSize: 22_016, tied: false }
/** @type {Defaults} */
const qwen3 = { ...qwen2, headDim: 128 }
/** @type {Defaults} */
const qwen2Vision = { vocabSize: 152_064, heads: 64, kvHeads: 8, intermediateSize: 29_568, tied: false }
/** @type {Defaults} */
const gemma2 = { vocabSize: 256_000, heads: 8, kvHeads: 4, headDim: 256, intermediateSize: 9216, tied: true }
/** @type {Defaults} */
const gemma3 = { ...gemma2, vocabSize: 262_208 }
/** @type {Defaults} */
const gemma3n = { ...gemma3, vocabSize: 262_400, kvHeads: 2, intermediateSize: 16_384 }

/** @type {Record<string, Defaults>} */
const DEFAULTS = {
  llama,
  mistral: { ...llama, kvHeads: 8, intermediateSize: 14_336 },
  mixtral: { ...llama, kvHeads: 8, intermediateSize: 14_336 },
  qwen2,
  qwen2_vl: qwen2Vision,
  qwen2_vl_text: qwen2Vision,
  qwen2_5_vl: qwen2Vision,
  qwen2_5_vl_text: qwen2Vision,
  qwen3,
  qwen3_vl: qwen3,
  qwen3_vl_text: qwen3,
  gemma: { vocabSize: 256_000, heads: 16, kvHeads: 16, headDim: 256, intermediateSize: 24_576, tied: true },
  gemma2,
  gemma3,
  gemma3_text: gemma3,
  gemma3n,
  gemma3n_text: gemma3n,
  phi: { vocabSize: 51_200, heads: 32, intermediateSize: 8192, tied: false },
  phi3: { vocabSize: 32_064, heads: 32, intermediateSize: 8192, tied: false },
  gpt2: { vocabSize: 50_257, heads: 12, tied: true },
  gpt_neox: { vocabSize: 50_432, heads: 64, intermediateSize: 24_576, tied: false },
  stablelm: { vocabSize: 50_304, heads: 32, kvHeads: 32, intermediateSize: 6912, tied: false },
  smolvlm: { ...llama, vocabSize: 49_280 },
  internlm2: { ...llama, vocabSize: 92_544 },
  starcoder2: { vocabSize: 49_152, heads: 24, kvHeads: 2, intermediateSize: 12_288, tied: true },
  granite: llama,
  exaone: { vocabSize: 102_400, heads: 32, tied: false },
}

/** @type {(architecture: string | null) => Partial<Defaults>} */
const defaultsOf = (architecture) => (Object.hasOwn(DEFAULTS, architecture ?? '') ? DEFAULTS[architecture ?? ''] : {})

/** Families of which three layers in four are linear by default. */
const LINEAR_BY_DEFAULT = [
  'qwen3_next', 'qwen3_5', 'qwen3_5_text', 'qwen3_5_moe', 'qwen3_5_moe_text',
]

/** @type {(architecture: string | null) => number | null} */
const intervalOf = (architecture) => (LINEAR_BY_DEFAULT.includes(architecture ?? '') ? 4 : null)

module.exports = { defaultsOf, familyOf, intervalOf }
