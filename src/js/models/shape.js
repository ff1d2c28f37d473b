'use strict'

// Reads the numbers that memory depends on from a Hugging Face config.json, under one name each.
//
// Families name the same number differently, and vision-language models keep the language model's numbers in a nested
// object. A number that the configuration does not have is null; none is assumed here.

/** Names of the nested object that holds the language model's configuration, outermost first. */
const NESTED = ['thinker_config', 'text_config', 'language_config', 'llm_config', 'lm_config']

const ALIASES = {
  layers: ['num_hidden_layers', 'n_layer', 'num_layers', 'n_layers'],
  hiddenSize: ['hidden_size', 'n_embd', 'd_model'],
  heads: ['num_attention_heads', 'n_head', 'num_heads'],
  kvHeads: ['num_key_value_heads', 'multi_query_group_num', 'num_kv_heads', 'n_head_kv'],
  headDim: ['head_dim', 'kv_channels'],
  intermediateSize: ['intermediate_size', 'ffn_hidden_size', 'n_inner'],
  vocabSize: ['padded_vocab_size', 'vocab_size'],
  // Mixture of experts.
  experts: ['n_routed_experts', 'num_experts', 'num_local_experts'],
  expertSize: ['moe_intermediate_size', 'expert_ffn_hidden_size'],
  sharedExperts: ['n_shared_experts'],
  sharedExpertSize: ['shared_expert_intermediate_size'],
  denseLayers: ['first_k_dense_replace'],
  // Latent attention.
  queryRank: ['q_lora_rank'],
  latentRank: ['kv_lora_rank'],
  ropeDim: ['qk_rope_head_dim'],
  noRopeDim: ['qk_nope_head_dim'],
  valueDim: ['v_head_dim'],
  // Hybrid models: layers with a state of fixed size between layers with a cache.
  attentionInterval: ['full_attention_interval'],
  linearKeyHeads: ['linear_num_key_heads'],
  linearValueHeads: ['linear_num_value_heads'],
  linearKeyDim: ['linear_key_head_dim'],
  linearValueDim: ['linear_value_head_dim'],
  // Gemma 3n and 4: embeddings for each layer, and layers that read another layer's cache.
  perLayerSize: ['hidden_size_per_layer_input'],
  perLayerVocab: ['vocab_size_per_layer_input'],
  sharedKvLayers: ['num_kv_shared_layers'],
  globalHeadDim: ['global_head_dim'],
  globalKvHeads: ['num_global_key_value_heads'],
  alternatives: ['altup_num_inputs'],
  laurelRank: ['laurel_rank'],
}

/** @typedef {keyof typeof ALIASES} Count the name of a number */

/**
 * @typedef {object} Traits
 * @property {string | null} architecture
 * @property {keyof typeof FAMILIES | null} family
 * @property {boolean | null} tied
 * @property {boolean} doubleWide
 * @property {string[] | null} layerTypes
 */

/**
 * The shape of a model, as far as it is known.
 *
 * @typedef {Partial<Record<Count, number | null>> & Traits} PartialShape
 */

/**
 * A shape with the numbers that every model has; models of the family `rwkv` have none of attention.
 *
 * @typedef {PartialShape & { layers: number, hiddenSize: number, vocabSize: number }} Shape
 */

/** Numbers that may be zero or null: the family has the field, and the model does not use it. */
const REQUIRED = /** @type {const} */ (['layers', 'hiddenSize', 'vocabSize'])
const ATTENTION = /** @type {const} */ (['kvHeads', 'headDim'])

/**
 * Model families, by the kind of layers that `parameters.js` can count.
 *
 * @type {{ gated: string[], rwkv: string[] }}
 */
const FAMILIES = {
  gated: [
    'llama',
    'mistral',
    'qwen2',
    'qwen3',
    'qwen2_vl',
    'qwen2_vl_text',
    'qwen2_5_vl',
    'qwen2_5_vl_text',
    'qwen3_vl',
    'qwen3_vl_text',
    'gemma',
    'gemma2',
    'gemma3',
    'gemma3_text',
    'phi3',
    'minicpm',
    'minicpm3',
    'minicpmv',
    'chatglm',
    'internlm2',
    'internlm3',
    'telechat',
    'telechat2',
    'exaone',
    'exaone4',
    'granite',
    'smollm3',
    'stablelm',
    'yi',
    'baichuan',
    'deepseek_v2',
    'deepseek_vl_v2',
    'qwen2_moe',
    'qwen3_moe',
    'mixtral',
    'gemma3n',
    'gemma3n_text',
    'gemma4',
    'gemma4_text',
    'qwen3_next',
    'qwen3_5',
    'qwen3_5_text',
  ],
  rwkv: ['rwkv7'],
}

/**
 * The families of which three layers in four are linear by default.
 *
 * @type {Record<string, number>}
 */
const DEFAULT_INTERVAL = { qwen3_next: 4, qwen3_5: 4, qwen3_5_text: 4 }

/** @type {(value: unknown) => value is Record<string, unknown>} */
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)
/** @type {(value: unknown) => value is number} */
const isCount = (value) => Number.isSafeInteger(value) && /** @type {number} */ (value) >= 0

/**
 * Returns the language model's configuration within a model's.
 *
 * @param {Record<string, unknown>} config
 */
function languageConfig(config) {
  let inner = config
  for (const name of NESTED) {
    const nested = inner[name]
    if (isObject(nested)) inner = nested
  }
  return inner
}

/**
 * @param {Record<string, unknown>} config
 * @param {string[]} names
 */
function read(config, names) {
  for (const name of names) {
    const value = config[name]
    if (isCount(value)) return value
    // Gemma 3n has a list of widths, one for each layer.
    if (Array.isArray(value) && value.length > 0 && value.every(isCount))
      return value.reduce((a, b) => a + b) / value.length
  }
  return null
}

/**
 * @param {Record<string, unknown>} config of a whole model, or of a language model
 * @returns {{shape: PartialShape, missing: string[]}} `missing` names the required numbers that were not found
 */
function shapeOf(config) {
  const language = languageConfig(config)
  const counts = /** @type {Record<Count, number | null>} */ ({})
  for (const [name, names] of /** @type {[Count, string[]][]} */ (Object.entries(ALIASES))) {
    counts[name] = read(language, names) ?? read(config, names)
  }

  const type = language.model_type ?? config.model_type
  const architecture = typeof type === 'string' ? type : null
  const tied = language.tie_word_embeddings ?? config.tie_word_embeddings
  const types = language.layer_types
  /** @type {PartialShape} */
  const shape = {
    ...counts,
    architecture,
    family: familyOf(architecture),
    tied: typeof tied === 'boolean' ? tied : null,
    doubleWide: language.use_double_wide_mlp === true,
    layerTypes: Array.isArray(types) && types.length === counts.layers ? types : null,
  }

  shape.kvHeads ??= counts.heads
  if (counts.headDim === null && counts.heads !== null && counts.heads > 0) {
    shape.headDim = Math.floor((counts.hiddenSize ?? 0) / counts.heads)
  }
  shape.attentionInterval ??= (architecture === null ? undefined : DEFAULT_INTERVAL[architecture]) ?? null

  const attention = shape.family === 'rwkv' ? [] : ATTENTION
  const missing = [...REQUIRED, ...attention].filter((name) => !((shape[name] ?? 0) > 0))
  return { shape, missing }
}

/**
 * @param {string | null} architecture
 * @returns {keyof typeof FAMILIES | null}
 */
function familyOf(architecture) {
  if (architecture === null) return null
  if (FAMILIES.gated.includes(architecture)) return 'gated'
  return FAMILIES.rwkv.includes(architecture) ? 'rwkv' : null
}

/**
 * Returns the names of a number in configurations, for messages.
 *
 * @param {Count} field
 */
const namesOf = (field) => ALIASES[field]

module.exports = { shapeOf, namesOf, isObject }
