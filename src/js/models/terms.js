'use strict'

// Computes a model's memory as a sum of terms. Some follow from the shape; the others are a coefficient of fit.json
// times a number of the shape. benchmark/estimator/fit.mjs fits the coefficients with this same file.

const { parametersOf } = require('./parameters.js')

/** @typedef {import('./shape.js').Shape} Shape */

/** The tokens computed at once while a prompt is read; the prompts of the vendor's measurements had as many. */
const PROMPT_CHUNK = 128
const FLOAT = 4

/**
 * Counts the bytes of activations in one layer for one chunk of a prompt: residual, its norm, and the two widest
 * products.
 *
 * @param {Shape} shape
 */
function activationsOf(shape) {
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
  return {
    matrices: counts.matrices,
    vocabulary: shape.vocabSize,
    kvCache: counts.kvPerToken * kvBytes * context * batch + counts.state * FLOAT * batch,
    activations: activationsOf(shape) * batch,
  }
}

/**
 * Computes the bytes of the quantised weights, of the runtime's own memory, and in total.
 *
 * @param {object} coefficients
 * @param {Record<string, number>} coefficients.bytesPerWeight
 * @param {number} coefficients.bytesPerToken
 * @param {number} coefficients.constant
 * @param {Record<string, number>} coefficients.chips
 * @param {ReturnType<typeof termsOf>} terms
 * @param {{ dtype: string, chip: string }} run
 */
function apply(coefficients, terms, { dtype, chip }) {
  const weights = coefficients.bytesPerWeight[dtype] * terms.matrices
  const host = coefficients.bytesPerToken * terms.vocabulary + coefficients.constant + (coefficients.chips[chip] ?? 0)
  return { weights, host: Math.max(0, host), total: weights + terms.kvCache + terms.activations + Math.max(0, host) }
}

module.exports = { termsOf, apply, PROMPT_CHUNK }
