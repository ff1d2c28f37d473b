'use strict'

// Counts the vision part of a model's configuration. The runtimes take it as a .rknn file of its own, in float16,
// beside the .rkllm file of the words.

const { isObject } = require('./shape.js')

/** Names of the nested object that holds the vision part. */
const NESTED = ['vision_config', 'visual', 'vision_tower_config', 'vit_config']
const HALF = 2
/**
 * Bytes of a .rknn file for a byte of its weights: rotary tables, masks and commands. One file is published with its
 * allocation (rknn-llm#195): 1,427,746,880 for the 668 million numbers of Qwen2.5-VL-3B.
 */
const FILE_SHARE = 1.07

/** @type {(value: unknown) => value is number} */
const isCount = (value) => typeof value === 'number' && Number.isFinite(value) && value > 0 && value < 2 ** 32

/**
 * @param {Record<string, unknown>} config
 * @param {string[]} names
 * @returns {number | null}
 */
function first(config, names) {
  for (const name of names) {
    const value = config[name]
    if (isCount(value)) return value
  }
  return null
}

/**
 * Estimates the vision part.
 *
 * @param {Record<string, unknown>} config of a whole model
 * @returns {{ bytes: number | null } | null} null without a vision part; `bytes` null if its sizes are not given
 */
function visionOf(config) {
  const thinker = isObject(config.thinker_config) ? config.thinker_config : config
  const part = NESTED.map((name) => thinker[name] ?? config[name]).find(isObject)
  if (part === undefined) return null
  // Qwen2-VL writes the words' width into hidden_size, and its own into embed_dim.
  const width = first(part, ['embed_dim', 'hidden_size', 'width', 'd_model'])
  const layers = first(part, ['depth', 'num_hidden_layers', 'layers', 'n_layers'])
  if (width === null || layers === null || layers > 4096) return { bytes: null }
  const ratio = first(part, ['mlp_ratio']) ?? 4
  const inner = first(part, ['intermediate_size']) ?? ratio * width
  // Qwen2.5-VL's layers are gated; the other published ones are not.
  const gated = /qwen2_5/.test(`${part.model_type ?? config.model_type ?? ''}`)
  const body = layers * (4 * width ** 2 + (gated ? 3 : 2) * width * inner)
  const patch = first(part, ['patch_size', 'spatial_patch_size']) ?? 14
  const patches = 3 * (first(part, ['temporal_patch_size']) ?? 1) * patch ** 2 * width
  const merge = first(part, ['spatial_merge_size'])
  const out = first(part, ['out_hidden_size']) ?? width
  const mergers = 1 + (Array.isArray(part.deepstack_visual_indexes) ? part.deepstack_visual_indexes.length : 0)
  const merger = merge === null ? width * out : mergers * ((merge ** 2 * width) ** 2 + merge ** 2 * width * out)
  // MiniCPM-V has a layer of attention from a few queries to the patches, as wide as the words.
  const words = first(config, ['query_num']) === null ? 0 : (first(config, ['hidden_size']) ?? 0)
  const queries = 5 * words ** 2 + width * words
  return { bytes: Math.ceil(HALF * FILE_SHARE * (body + patches + merger + queries)) }
}

/**
 * Whether a configuration has a part that hears, which no runtime of the NPU takes.
 *
 * @param {Record<string, unknown>} config
 */
function hasAudio(config) {
  const thinker = isObject(config.thinker_config) ? config.thinker_config : config
  return isObject(thinker.audio_config) || isObject(config.audio_config)
}

module.exports = { hasAudio, visionOf }
