'use strict'

// What a model's memory is made of, as a sum of terms: some follow from its shape, some are coefficients of fit.json times a
// number of its shape. benchmark/estimator/fit.mjs fits those coefficients with this same file.

const { parametersOf } = require('./parameters.js')

/** Tokens that are computed at once while a prompt is read: the vendor's measurements had prompts of so many. */
const PROMPT_CHUNK = 128
const FLOAT = 4

/** Values that are live while one chunk of a prompt goes through one layer: residual, its norm, and the two widest products. */
function activationsOf(shape) {
  const width = shape.expertSize ?? shape.intermediateSize ?? 4 * shape.hiddenSize
  return PROMPT_CHUNK * FLOAT * (2 * shape.hiddenSize + 2 * width)
}

/**
 * The terms that follow from the shape alone, in bytes, and the counts that coefficients are multiplied with.
 *
 * @param {object} shape of shape.js
 * @param {{context: number, batch: number, kvBytes: number}} run
 */
function termsOf(shape, { context, batch, kvBytes }) {
  const counts = parametersOf(shape)
  return {
    matrices: counts.matrices,
    vocabulary: shape.vocabSize,
    kvCache: counts.kvPerToken * kvBytes * context * batch + counts.state * FLOAT * batch,
    activations: activationsOf(shape) * batch,
  }
}

/** Bytes of quantised weights, of the runtime's own memory, and all of it. */
function apply(coefficients, terms, { dtype, chip }) {
  const weights = coefficients.bytesPerWeight[dtype] * terms.matrices
  const host = coefficients.bytesPerToken * terms.vocabulary + coefficients.constant + (coefficients.chips[chip] ?? 0)
  return { weights, host: Math.max(0, host), total: weights + terms.kvCache + terms.activations + Math.max(0, host) }
}

module.exports = { termsOf, apply, PROMPT_CHUNK }
