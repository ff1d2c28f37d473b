'use strict'

// Computes a model's memory as a sum of terms. Some follow from the shape; the others are a coefficient of fit.json
// times a number of the shape. benchmark/estimator/fit.mjs fits the coefficients with this same file.
//
// The runtime's own messages give one term exactly: the allocation that fails is one byte a weight of w8a8, output head
// included and input embeddings not (docs/design/runtime-api.md §4).

const { partsOf } = require('./dtypes.js')
const { parametersOf } = require('./parameters.js')

/** @typedef {import('./shape.js').Shape} Shape */
/** @typedef {import('./dtypes.js').Runtime} Runtime */

/** The tokens computed at once while a prompt is read; the prompts of the vendor's measurements had as many. */
const PROMPT_CHUNK = 128
/** The tokens of a first short exchange: the vendor measures a prompt of 128 and an answer of 64. */
const FIRST_TOKENS = 192
const FLOAT = 4
const HALF = 2
/** The alignment of a float16 matrix on the NPU, in rows. */
const HEADS_AT_ONCE = 16
/**
 * Bytes that the runtime puts into one domain at most before it continues in the next: 4,059,037,696 of Qwen2-7B and
 * 4,022,861,824 of ChatGLM3-6B went into the first, and the next matrix did not.
 */
const DOMAIN_WEIGHTS = 4_060_000_000
/** Chips that multiply groups of weights natively: grouped types measure no larger than plain ones. */
const NATIVE_GROUPS = ['rv1126b']

/**
 * Counts the bytes of activations in one layer for one chunk of a prompt: residual, its norm, and the two widest
 * products.
 *
 * @param {Shape} shape
 */
function layerActivations(shape) {
  const width = shape.expertSize ?? shape.intermediateSize ?? 4 * shape.hiddenSize
  return PROMPT_CHUNK * FLOAT * (2 * shape.hiddenSize + 2 * width)
}

/**
 * Computes the terms that follow from the shape alone, in bytes, and the counts to multiply by coefficients.
 *
 * @param {Shape} shape
 * @param {{context: number, batch: number, kvBytes: number}} run
 */
function termsOf(shape, { context, batch, kvBytes }) {
  const counts = parametersOf(shape)
  const perToken = counts.kvPerToken * kvBytes * batch
  const state = counts.state * FLOAT * batch
  const layer = layerActivations(shape) * batch
  // Scores of a chunk against the whole context, of one layer. The NPU pads heads.
  const heads = Math.ceil((shape.heads ?? 0) / HEADS_AT_ONCE) * HEADS_AT_ONCE
  const scores = heads * PROMPT_CHUNK * context * FLOAT * batch
  return {
    matrices: counts.matrices,
    matrixCount: counts.matrixCount,
    vocabulary: shape.vocabSize,
    embedding: counts.embedding,
    kvCache: perToken * context + state,
    kvFirst: perToken * Math.min(context, FIRST_TOKENS) + state,
    layerActivations: layer,
    scores,
    activations: layer + scores,
  }
}

/**
 * @typedef {object} Coefficients
 * @property {{ w8a8: number, w4a16: number }} groupBytes of scales, for a group of a grouped type
 * @property {number} bytesPerToken of the vocabulary: tokenizer and logits
 * @property {number} bytesPerMatrix commands and tasks of the NPU
 * @property {number} nextDomain buffers of a model that continues in another domain
 * @property {Record<Runtime, number>} constants libraries and heap
 * @property {Record<string, number>} chips bytes that a chip's runtime takes more than the rk3588's
 */

/**
 * @typedef {object} Setup
 * @property {string} dtype
 * @property {string} chip
 * @property {Runtime} runtime
 * @property {boolean} embedFlash whether the table of embeddings stays in the file
 */

/** @typedef {ReturnType<typeof termsOf>} Terms */

/**
 * Computes bytes of the quantised weights.
 *
 * @param {Pick<Coefficients, 'groupBytes'>} coefficients
 * @param {number} matrices
 * @param {{ dtype: string, chip: string }} setup
 */
function weightsOf({ groupBytes }, matrices, { dtype, chip }) {
  const { bytes, group, eightBits } = partsOf(dtype)
  const scales = group === null || NATIVE_GROUPS.includes(chip) ? 0 : groupBytes[eightBits ? 'w8a8' : 'w4a16'] / group
  return matrices * (bytes + scales)
}

/**
 * Returns the parts that coefficients multiply, in the order of the fit.
 *
 * @param {Terms} terms
 * @param {Setup} setup
 */
function featuresOf(terms, { dtype, chip, runtime }) {
  const { bytes, group, eightBits } = partsOf(dtype)
  const groups = group === null || NATIVE_GROUPS.includes(chip) ? 0 : terms.matrices / group
  return {
    groupsOf8: eightBits ? groups : 0,
    groupsOf4: eightBits ? 0 : groups,
    // The table of embeddings in RAM takes the place of the copies by token.
    vocabulary: runtime === '1.1' ? 0 : terms.vocabulary,
    matrixCount: terms.matrixCount,
    nextDomain: bytes * terms.matrices > DOMAIN_WEIGHTS ? 1 : 0,
  }
}

/**
 * Computes the bytes of the weights, of the runtime's own memory, of what takes addresses in a domain, and of the whole
 * after a first short exchange.
 *
 * @param {Coefficients} coefficients
 * @param {Terms} terms
 * @param {Setup} setup
 */
function apply(coefficients, terms, setup) {
  const weights = weightsOf(coefficients, terms.matrices, setup)
  const features = featuresOf(terms, setup)
  const commands = coefficients.bytesPerMatrix * features.matrixCount
  const table = setup.embedFlash ? 0 : terms.embedding * FLOAT
  const host = Math.max(
    0,
    coefficients.bytesPerToken * features.vocabulary +
      coefficients.nextDomain * features.nextDomain +
      coefficients.constants[setup.runtime] +
      (coefficients.chips[setup.chip] ?? 0) +
      commands +
      table,
  )
  return {
    weights,
    host,
    table,
    domain: weights + commands + terms.layerActivations,
    loaded: weights + terms.kvFirst + terms.activations + host,
    full: weights + terms.kvCache + terms.activations + host,
  }
}

/**
 * Returns the class of models that has a band of its own: experts, and by whether the table of embeddings is in RAM and
 * whether the type is grouped.
 *
 * @param {{ runtime: Runtime, dtype: string, kind: string }} run
 */
function bandClassOf({ runtime, dtype, kind }) {
  if (kind === 'experts') return 'experts'
  const grouped = partsOf(dtype).group !== null
  return `table in ${runtime === '1.1' ? 'RAM' : 'flash'}, ${grouped ? 'grouped' : 'plain'}`
}

/**
 * Computes the size of a .rkllm file: weights, the float16 table of embeddings, and the scales of grouped types, which
 * the file holds at a higher precision.
 *
 * @param {{ matrices: number, embedding: number }} terms
 * @param {string} dtype
 */
function fileBytesOf({ matrices, embedding }, dtype) {
  const { bytes, group } = partsOf(dtype)
  return matrices * (bytes + (group === null ? 0 : FILE_GROUP_BYTES / group)) + HALF * embedding
}

/** Published grouped files: 12 to 18 bytes a group. */
const FILE_GROUP_BYTES = 15

module.exports = {
  DOMAIN_WEIGHTS,
  FIRST_TOKENS,
  HALF,
  apply,
  bandClassOf,
  featuresOf,
  fileBytesOf,
  termsOf,
}
