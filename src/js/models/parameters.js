'use strict'

// Counts the parameters of a model from its shape (shape.js), by their place in memory.
//
// The matrices that the NPU multiplies by are quantised and in NPU memory. The vendor's measurements (docs/planning.md)
// show that the output head is one of them, tied or not, and that the table of input embeddings is not.

/** @typedef {import('./shape.js').Shape} Shape */

/**
 * Whether layer `i` has attention with keys and values, its own or another layer's.
 *
 * @param {Shape} shape
 * @param {number} i
 */
function kindOf(shape, i) {
  if (shape.layerTypes !== null) {
    const type = shape.layerTypes[i]
    if (/linear|delta|mamba|recurrent/.test(type)) return 'linear'
    return type === 'full_attention' ? 'full' : 'sliding'
  }
  const interval = shape.attentionInterval ?? 1
  if (interval > 1) return (i + 1) % interval === 0 ? 'full' : 'linear'
  return 'full'
}

/** @type {(shape: Shape, i: number) => boolean} */
const ownsCache = (shape, i) => i < shape.layers - (shape.sharedKvLayers ?? 0)

/**
 * Returns the heads of layer `i` and their width. Gemma 4 has wider ones in layers with global attention.
 *
 * @param {Shape} shape
 * @param {number} i
 */
function attentionOf(shape, i) {
  const global = kindOf(shape, i) === 'full'
  return {
    headDim: (global && shape.globalHeadDim) || (shape.headDim ?? 0),
    kvHeads: (global && shape.globalKvHeads) || (shape.kvHeads ?? 0),
  }
}

/** @type {(shape: Shape) => boolean} */
const isLatent = (shape) => (shape.latentRank ?? 0) > 0
/** @type {(shape: Shape) => number} */
const latentQueryDim = (shape) => (shape.noRopeDim ?? 0) + (shape.ropeDim ?? 0)

/** @type {(shape: Shape) => number} */
const valueDimOf = (shape) => shape.valueDim ?? shape.noRopeDim ?? shape.headDim ?? 0

/**
 * @param {Shape} shape
 * @param {number} i
 */
function attentionMatrices(shape, i) {
  const { hiddenSize: hidden } = shape
  const heads = shape.heads ?? 0
  if (isLatent(shape)) {
    const query = heads * latentQueryDim(shape)
    const value = heads * valueDimOf(shape)
    const queryRank = shape.queryRank ?? 0
    const queries = queryRank > 0 ? queryRank * (hidden + query) : hidden * query
    const rank = shape.latentRank ?? 0
    const keys = hidden * (rank + (shape.ropeDim ?? 0)) + rank * (heads * (shape.noRopeDim ?? 0) + value)
    return queries + keys + value * hidden
  }
  const { headDim, kvHeads } = attentionOf(shape, i)
  // Hybrid models have an output gate as wide as the queries.
  const queries = heads * headDim * ((shape.linearKeyHeads ?? 0) > 0 ? 2 : 1)
  const keys = ownsCache(shape, i) ? 2 * kvHeads * headDim : 0
  return hidden * (queries + keys) + heads * headDim * hidden
}

/** @param {Shape} shape */
function linearMatrices(shape) {
  const key = (shape.linearKeyHeads ?? 0) * (shape.linearKeyDim ?? 0)
  const value = (shape.linearValueHeads ?? 0) * (shape.linearValueDim ?? 0)
  return shape.hiddenSize * (2 * key + 2 * value + 2 * (shape.linearValueHeads ?? 0)) + value * shape.hiddenSize
}

/** @type {(shape: Shape, i: number) => boolean} Whether layer `i` has experts. */
function routes(shape, i) {
  // A list has a mean between 0 and 1: layers with experts, one by one.
  const interval = Math.max(1, Math.round(shape.expertInterval ?? 1))
  return (shape.experts ?? 0) > 0 && i >= (shape.denseLayers ?? 0) && (i + 1) % interval === 0
}

/**
 * @param {Shape} shape
 * @param {number} i
 */
function feedForward(shape, i) {
  const perWidth = shape.family === 'plain' ? 2 : 3
  const gated = (/** @type {number} */ width) => perWidth * shape.hiddenSize * width
  const experts = shape.experts ?? 0
  if (!routes(shape, i)) {
    const wide = shape.doubleWide && !ownsCache(shape, i)
    return gated((shape.intermediateSize ?? 0) * (wide ? 2 : 1))
  }
  const width = shape.expertSize ?? shape.intermediateSize ?? 0
  const shared = shape.sharedExpertSize ?? (shape.sharedExperts ?? 0) * width
  return gated(experts * width + shared) + shape.hiddenSize * experts
}

/**
 * Counts what Gemma 3n and 4 add to each layer: gate and projection of its own embedding, and a low-rank bypass.
 *
 * @param {Shape} shape
 */
function extras(shape) {
  const { hiddenSize: hidden } = shape
  const ownEmbedding = 3 * hidden * (shape.perLayerSize ?? 0)
  return ownEmbedding + 2 * hidden * (shape.laurelRank ?? 0)
}

/**
 * Counts a layer of RWKV-7: four square matrices, a feed-forward pair, and low-rank pairs with ranks by the width's
 * root.
 *
 * @param {Shape} shape
 */
function rwkvLayer({ hiddenSize: hidden, intermediateSize }) {
  const rank = (/** @type {number} */ factor) => Math.max(32, Math.round((factor * Math.sqrt(hidden)) / 32) * 32)
  const ranks = 2 * rank(1.8) + rank(1.3) + Math.max(32, Math.round((0.6 * hidden ** 0.8) / 32) * 32)
  return 4 * hidden ** 2 + 2 * hidden * (intermediateSize ?? 4 * hidden) + 2 * hidden * ranks
}

/** Matrices in the attention and the feed-forward part of a layer, and in a layer of RWKV-7. */
const MATRICES = { full: 4, linear: 5, latent: 5, gated: 3, plain: 2, rwkv: 14 }

/**
 * Counts the matrices, each of which has commands of its own in NPU memory.
 *
 * @param {Shape} shape
 */
function matrixCount(shape) {
  if (shape.family === 'rwkv') return shape.layers * MATRICES.rwkv + 1
  const perExpert = shape.family === 'plain' ? MATRICES.plain : MATRICES.gated
  const counted = sum(shape.layers, (i) => {
    const linear = kindOf(shape, i) === 'linear'
    const mixing = linear ? MATRICES.linear : isLatent(shape) ? MATRICES.latent : MATRICES.full
    const routed = routes(shape, i)
    const shared = routed && ((shape.sharedExperts ?? 0) > 0 || (shape.sharedExpertSize ?? 0) > 0) ? 1 : 0
    const own = (shape.perLayerSize ?? 0) > 0 ? 2 : 0
    return mixing + own + perExpert * (routed ? (shape.experts ?? 0) + shared : 1)
  })
  return counted + 1
}

/** @type {(count: number, of: (i: number) => number) => number} */
const sum = (count, of) => Array.from({ length: count }, (_, i) => of(i)).reduce((a, b) => a + b, 0)

/**
 * @param {Shape} shape
 * @returns {{matrices: number, matrixCount: number, embedding: number, perLayerEmbedding: number, kvPerToken: number,
 * state: number}} counts of numbers; `matrixCount` of matrices
 */
function parametersOf(shape) {
  const { layers, hiddenSize, vocabSize } = shape
  const table = vocabSize * hiddenSize
  if (shape.family === 'rwkv') {
    // Each head has a state of 64 by 64.
    const state = layers * hiddenSize * 64
    return {
      matrices: layers * rwkvLayer(shape) + table,
      matrixCount: matrixCount(shape),
      embedding: table,
      perLayerEmbedding: 0,
      kvPerToken: 0,
      state,
    }
  }
  const body = sum(layers, (i) => {
    const mixing = kindOf(shape, i) === 'linear' ? linearMatrices(shape) : attentionMatrices(shape, i)
    return mixing + feedForward(shape, i) + extras(shape)
  })
  const mixers = Math.max(0, (shape.alternatives ?? 0) - 1) * 2 * hiddenSize ** 2
  return {
    matrices: body + mixers + table,
    matrixCount: matrixCount(shape),
    embedding: table,
    perLayerEmbedding: layers * (shape.perLayerSize ?? 0) * (shape.perLayerVocab ?? 0),
    kvPerToken: sum(layers, (i) => kvOf(shape, i)),
    state: sum(layers, (i) => (kindOf(shape, i) === 'linear' ? stateOf(shape) : 0)),
  }
}

/**
 * @param {Shape} shape
 * @param {number} i
 */
function kvOf(shape, i) {
  if (kindOf(shape, i) === 'linear' || !ownsCache(shape, i)) return 0
  // Full keys and values: no document says that the runtime keeps only the latent.
  if (isLatent(shape)) return (shape.heads ?? 0) * (latentQueryDim(shape) + valueDimOf(shape))
  const { headDim, kvHeads } = attentionOf(shape, i)
  return 2 * kvHeads * headDim
}

/** @type {(shape: Shape) => number} */
const stateOf = (shape) => (shape.linearValueHeads ?? 0) * (shape.linearKeyDim ?? 0) * (shape.linearValueDim ?? 0)

/**
 * Returns the model's kind, as the calibration distinguishes kinds.
 *
 * @param {Shape} shape
 */
function kindOfModel(shape) {
  if ((shape.experts ?? 0) > 0) return 'experts'
  if (isLatent(shape)) return 'latent'
  if ((shape.perLayerSize ?? 0) > 0) return 'per-layer-embedding'
  if ((shape.attentionInterval ?? 0) > 1) return 'hybrid'
  return shape.family === 'rwkv' ? 'rwkv' : 'dense'
}

module.exports = { parametersOf, kindOfModel }
