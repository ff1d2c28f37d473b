'use strict'

// Reads the numbers that memory depends on from a Hugging Face config.json, under one name each.
//
// Families name the same number differently, and vision-language models keep the language model's numbers in a nested
// object. A number that the configuration leaves to the family's default is taken from families.js, and named.

const { defaultsOf, familyOf, intervalOf } = require('./families.js')

/** Names of the nested object that holds the language model's configuration, outermost first. */
const NESTED = ['thinker_config', 'text_config', 'language_config', 'llm_config', 'lm_config']

const ALIASES = {
  layers: ['num_hidden_layers', 'n_layer', 'num_layers', 'n_layers'],
  hiddenSize: ['hidden_size', 'n_embd', 'n_embed', 'd_model'],
  heads: ['num_attention_heads', 'n_head', 'num_heads'],
  kvHeads: ['num_key_value_heads', 'multi_query_group_num', 'num_kv_heads', 'n_head_kv'],
  headDim: ['head_dim', 'kv_channels'],
  intermediateSize: ['intermediate_size', 'ffn_hidden_size', 'n_inner', 'ffn_dim'],
  vocabSize: ['padded_vocab_size', 'vocab_size'],
  // Mixture of experts.
  experts: ['n_routed_experts', 'num_experts', 'num_local_experts'],
  expertSize: ['moe_intermediate_size', 'expert_ffn_hidden_size'],
  sharedExperts: ['n_shared_experts'],
  sharedExpertSize: ['shared_expert_intermediate_size'],
  denseLayers: ['first_k_dense_replace'],
  expertInterval: ['decoder_sparse_step', 'moe_layer_freq'],
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
 * @property {import('./families.js').Family | null} family
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

/** Numbers that a family's defaults may fill. */
const FILLED = /** @type {const} */ (['vocabSize', 'heads', 'intermediateSize'])

/**
 * @param {Record<string, unknown>} config of a whole model, or of a language model
 * @returns {{shape: PartialShape, missing: string[], assumed: string[]}} `missing` names the required numbers that were
 * not found, `assumed` the fields that the family's defaults filled
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
    tied: typeof tied === 'boolean' ? tied : (defaultsOf(architecture).tied ?? null),
    doubleWide: language.use_double_wide_mlp === true,
    layerTypes: Array.isArray(types) && types.length === counts.layers ? types : null,
  }
  // One head of keys and values for all queries, in the words of Falcon and StarCoder.
  if (language.multi_query === true && language.new_decoder_architecture !== true) shape.kvHeads ??= 1
  const assumed = fill(shape)
  // Qwen's first generation writes the sum of its two gated widths.
  if (architecture === 'qwen' && shape.intermediateSize) shape.intermediateSize /= 2
  if (shape.family === 'plain') shape.intermediateSize ??= 4 * (shape.hiddenSize ?? 0)
  shape.attentionInterval ??= intervalOf(architecture)

  const attention = shape.family === 'rwkv' ? [] : ATTENTION
  const missing = [...REQUIRED, ...attention].filter((name) => !((shape[name] ?? 0) > 0))
  return { shape, missing, assumed }
}

/**
 * Fills the numbers that the configuration leaves to its family, in place. A configuration without layers or width
 * describes no model, and stays as it is.
 *
 * @param {PartialShape} shape
 * @returns {string[]} the names of the filled fields
 */
function fill(shape) {
  if (shape.family === 'rwkv') return []
  /** @type {string[]} */
  const assumed = []
  const complete = (shape.layers ?? 0) > 0 && (shape.hiddenSize ?? 0) > 0
  const defaults = complete ? defaultsOf(shape.architecture) : {}
  const routed = (shape.experts ?? 0) > 0
  for (const name of FILLED) {
    if (shape[name] !== null || defaults[name] === undefined || (name === 'intermediateSize' && routed)) continue
    shape[name] = defaults[name]
    assumed.push(namesOf(name)[0])
  }
  const { kvHeads } = defaults
  if (shape.kvHeads === null && kvHeads !== undefined && (shape.heads ?? 0) % kvHeads === 0) {
    shape.kvHeads = kvHeads
    assumed.push(namesOf('kvHeads')[0])
  }
  shape.kvHeads ??= shape.heads ?? null
  if (shape.headDim === null) shape.headDim = defaults.headDim ?? null
  if (shape.headDim === null && (shape.heads ?? 0) > 0) {
    shape.headDim = Math.floor((shape.hiddenSize ?? 0) / (shape.heads ?? 1))
  }
  return assumed
}

/**
 * Returns the names of a number in configurations, the best known first, for messages.
 *
 * @param {Count} field
 */
const namesOf = (field) => (field === 'vocabSize' ? [...ALIASES[field]].reverse() : ALIASES[field])

module.exports = { shapeOf, namesOf, isObject }
