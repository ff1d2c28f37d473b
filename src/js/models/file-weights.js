'use strict'

// Compares the size of a .rkllm file with the size that the configuration predicts, and finds the type of its weights.
//
// The file holds the quantised matrices and the float16 table of input embeddings. So its size is not that of the
// weights: of Qwen3-0.6B a third is the table.

const { basename } = require('node:path')
const { formatBytes } = require('../core/format-bytes.js')
const { DTYPES, dtypeInName, partsOf } = require('./dtypes.js')
const { HALF, fileBytesOf } = require('./terms.js')

/** @typedef {import('../types/models.js').QuantizedType} QuantizedType */

/** Differences that published files have from the prediction: tokenizer and tables, and the scales of groups. */
const TOLERANCE = { plain: 0.04, grouped: 0.09 }

/** A typical vocabulary, where it is unknown: the median of the vendor's table. */
const TYPICAL_VOCABULARY = 128_000
/** The width of a model whose file has 1 GB; width grows with the root of the size. Published: 1024 of 0.9 GB. */
const WIDTH_OF_1_GB = 1080

/**
 * The types of published files, the most frequent first: sizes of rare group sizes are between theirs.
 *
 * @type {QuantizedType[]}
 */
const COMMON = ['w8a8', 'w4a16', 'w4a16_g128', 'w8a8_g128']

/** @type {(dtype: QuantizedType) => number} */
const toleranceOf = (dtype) => (partsOf(dtype).group === null ? TOLERANCE.plain : TOLERANCE.grouped)

/**
 * Estimates the weights of a file without a configuration: its size less a typical table of embeddings.
 *
 * @param {number} size
 * @param {{ hiddenSize?: number | null, vocabSize?: number | null }} shape as far as it is known
 */
function weightsOfFile(size, { hiddenSize, vocabSize }) {
  const width = hiddenSize || WIDTH_OF_1_GB * Math.sqrt(size / 1e9)
  return Math.ceil(Math.max(size / 2, size - HALF * width * (vocabSize || TYPICAL_VOCABULARY)))
}

/**
 * @typedef {object} Found
 * @property {QuantizedType} dtype
 * @property {number | null} weights null if the configuration counts them
 * @property {string[]} warnings
 */

/**
 * Finds the type of a file's weights and whether file and configuration agree.
 *
 * @param {{ path: string, size: number }} file
 * @param {{ matrices: number, embedding: number }} terms of the configuration
 * @param {QuantizedType | undefined} asked the type that the spec gives
 * @returns {Found}
 */
function compareWithConfig({ path, size }, terms, asked) {
  const errorOf = (/** @type {QuantizedType} */ dtype) => size / fileBytesOf(terms, dtype) - 1
  const fits = (/** @type {QuantizedType} */ dtype) => Math.abs(errorOf(dtype)) <= toleranceOf(dtype)
  const named = dtypeInName(basename(path))
  const nearest =
    COMMON.find(fits) ?? [...DTYPES].sort((a, b) => Math.abs(errorOf(a)) - Math.abs(errorOf(b)))[0]
  const dtype = asked ?? named ?? nearest
  if (fits(dtype)) {
    const guess = asked ?? named
    return {
      dtype,
      weights: null,
      warnings: guess === undefined || guess === null ? [`${path} is taken for ${dtype}, by its size`] : [],
    }
  }
  const predicted = `${path} has ${formatBytes(size)}, and the configuration predicts ${formatBytes(
    fileBytesOf(terms, dtype),
  )} as ${dtype}`
  if (fits(nearest)) {
    return { dtype: nearest, weights: null, warnings: [`${predicted}: its size is that of ${nearest}`] }
  }
  const table = HALF * terms.embedding
  // Smaller than its own table: the file is no such model, and only its size is known.
  const weights = size > 2 * table ? size - table : size
  return {
    dtype,
    weights,
    warnings: [`${predicted}: they do not belong together, and the file's size is taken, with a wider band`],
  }
}

module.exports = { TYPICAL_VOCABULARY, compareWithConfig, weightsOfFile }
