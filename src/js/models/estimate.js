'use strict'

// Estimates a model's memory before it is loaded.

const fs = require('node:fs')
const { check, invalid, outOfRange, formatValue } = require('../core/options.js')
const fit = require('./fit.json')
const { inspect, openError } = require('./file.js')
const schemas = require('./options.js')
const { kindOfModel } = require('./parameters.js')
const { isObject, namesOf, shapeOf } = require('./shape.js')
const { apply, termsOf } = require('./terms.js')

/**
 * Uncertainties outside the calibration. A file's size does not tell the vocabulary, and a bare number tells nothing
 * else.
 */
const UNKNOWN_ARCHITECTURE = 0.3
const SIZE_ONLY = 0.35
/** The assumed vocabulary if it is unknown: the median of the vendor's table. */
const TYPICAL_VOCABULARY = 128_000

/** Bounds the loop over layers. */
const MAX_LAYERS = 4096

/**
 * @typedef {import('../types/models.js').ModelEstimate} ModelEstimate
 * @typedef {import('../types/models.js').ModelSpec} ModelSpec
 * @typedef {import('./shape.js').PartialShape} PartialShape
 * @typedef {import('./shape.js').Shape} Shape
 * @typedef {ReturnType<typeof inspect>} ModelFile
 */

/**
 * The parts of a spec that the terms depend on.
 *
 * @typedef {object} Run
 * @property {number} contextLength
 * @property {number} batch
 * @property {number} kvBytesPerElement
 * @property {string} soc
 * @property {string[]} warnings
 * @property {ModelFile | null} file
 */

/** @type {Record<string, number>} Bytes that a chip's runtime takes more than the rk3588's. */
const CHIPS = fit.coefficients.chips
const NUMBERS = /** @type {const} */ (['layers', 'hiddenSize', 'kvHeads', 'headDim', 'vocabSize'])

/**
 * Returns the configuration; `config` is the object or a path to a config.json.
 *
 * @param {string | Record<string, unknown>} config
 */
function configOf(config) {
  if (typeof config !== 'string') return config
  let text
  try {
    text = fs.readFileSync(config, 'utf8')
  } catch (error) {
    throw openError(config, /** @type {NodeJS.ErrnoException} */ (error))
  }
  let parsed
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    throw invalid(`${config} is not JSON: ${/** @type {Error} */ (error).message}`, 'name the config.json of the model')
  }
  if (!isObject(parsed)) throw invalid(`${config} does not hold an object`, 'name the config.json of the model')
  return parsed
}

/**
 * Reads the shape from the configuration and the numbers of a spec. Without a configuration the shape is incomplete if
 * `missing` names anything.
 *
 * @param {ModelSpec} spec
 * @param {string[]} warnings
 */
function shapeFrom(spec, warnings) {
  const { shape } = shapeOf(spec.config === undefined ? {} : configOf(spec.config))
  for (const name of NUMBERS) if (spec[name] !== undefined) shape[name] = spec[name]
  const rwkv = shape.family === 'rwkv'
  const needed = NUMBERS.filter((name) => !rwkv || (name !== 'kvHeads' && name !== 'headDim'))
  const missing = needed.filter((name) => !((shape[name] ?? 0) > 0))
  if (spec.config !== undefined && missing.length > 0) {
    const names = missing.map((name) => (namesOf(name) ?? [name])[0]).join(', ')
    throw invalid(
      `the configuration has no ${names}`,
      `give ${missing.join(', ')} in the spec, or the language model's own config.json`,
    )
  }
  if ((shape.layers ?? 0) > MAX_LAYERS)
    throw outOfRange(`the configuration has ${shape.layers} layers; at most ${MAX_LAYERS} are accepted`)
  if (spec.config !== undefined && shape.family === null) {
    const name =
      shape.architecture === null
        ? 'the configuration names no model_type'
        : `the architecture ${formatValue(shape.architecture)} is unknown`
    warnings.push(`${name}: estimated with gated layers and a wider band`)
  }
  return { shape, missing }
}

/**
 * Implements `estimateModelMemory`.
 *
 * @param {ModelSpec} spec
 * @returns {ModelEstimate}
 */
function estimateModelMemory(spec) {
  if (spec === undefined) throw invalid('estimateModelMemory needs a ModelSpec, not undefined')
  const checked = check('estimateModelMemory', spec, schemas.model)
  return estimate(checked)
}

/**
 * @param {ModelSpec} spec checked
 * @returns {ModelEstimate}
 */
function estimate(spec) {
  const { contextLength, batch = 1, kvBytesPerElement = 2, soc = 'rk3588', dtype } = spec
  /** @type {string[]} */
  const warnings = []
  const file = spec.path === undefined ? null : inspect(spec.path)
  if (file !== null) warnings.push(...file.warnings)
  const given = spec.weightBytes ?? file?.size
  if (given === undefined && spec.config === undefined && !NUMBERS.some((name) => spec[name] !== undefined)) {
    throw invalid('a ModelSpec needs path, weightBytes or config', 'e.g. { path: "model.rkllm", contextLength: 4096 }')
  }
  const vision = spec.type === 'vision' || file?.kind === 'rknn'
  if (!vision && contextLength === undefined)
    throw invalid('contextLength is missing', 'pass the value that RKLLMParam.max_context_len will have')
  const known = contextLength === undefined || vision ? null : { ...shapeFrom(spec, warnings), contextLength }
  if (!Object.hasOwn(CHIPS, soc)) warnings.push(`there are no measurements of ${soc}: estimated as rk3588`)

  if (known === null) {
    return sizeOnly({ weights: requireWeights(given), kv: 0, host: 0, warnings, architecture: 'rknn', file })
  }
  const { shape, missing } = known
  const run = { contextLength: known.contextLength, batch, kvBytesPerElement, soc, warnings, file }
  if (missing.length > 0) return fromSize(requireWeights(given), shape, run)
  return fromShape(/** @type {Shape} */ (shape), given, { ...run, dtype, config: spec.config !== undefined })
}

/** @param {number | undefined} bytes */
function requireWeights(bytes) {
  if (bytes !== undefined) return bytes
  throw invalid('the weights are unknown', 'give weightBytes, path, or a config.json with the sizes of all layers')
}

/**
 * Estimates from the whole shape: the calibrated sum of terms.
 *
 * @param {Shape} shape
 * @param {number | undefined} given
 * @param {Run & { dtype?: string, config: boolean }} run
 * @returns {ModelEstimate}
 */
function fromShape(shape, given, { contextLength, batch, kvBytesPerElement, soc, dtype, warnings, file, config }) {
  const has = (/** @type {number | null | undefined} */ count) => (count ?? 0) > 0
  const countable = shape.family === 'rwkv' || (has(shape.heads) && (has(shape.intermediateSize) || has(shape.experts)))
  if (given === undefined && !(config && countable)) {
    throw invalid('the weights are unknown', 'give weightBytes, path, or a config.json with the sizes of all layers')
  }
  const terms = termsOf(shape, { context: contextLength, batch, kvBytes: kvBytesPerElement })
  const calibrated = apply(fit.coefficients, terms, { dtype: dtype ?? 'w8a8', chip: soc })
  const kind = kindOfModel(shape)
  let uncertainty = shape.family === null ? UNKNOWN_ARCHITECTURE : fit.uncertainty
  if (shape.family !== null && !fit.kinds.includes(kind)) {
    uncertainty = 2 * fit.uncertainty
    warnings.push(`the calibration has no model of this kind (${kind}): the band is twice as wide`)
  }
  if (dtype === undefined && given === undefined) warnings.push('dtype is not given: estimated as w8a8')
  return result({
    weights: given ?? calibrated.weights,
    kvCache: terms.kvCache,
    activations: terms.activations,
    hostBuffers: calibrated.host,
    uncertainty,
    architecture: shape.architecture,
    source: config ? 'config' : 'numbers',
    calibrated: given === undefined,
    warnings,
    file,
  })
}

/**
 * Estimates from the size of the weights, and from the numbers that the spec gives.
 *
 * @param {number} weights
 * @param {PartialShape} shape
 * @param {Run} run
 * @returns {ModelEstimate}
 */
function fromSize(weights, shape, { contextLength, batch, kvBytesPerElement, soc, warnings, file }) {
  const perToken = 2 * (shape.layers ?? 0) * (shape.kvHeads ?? 0) * (shape.headDim ?? 0)
  const kv = perToken * kvBytesPerElement * contextLength * batch
  if (kv === 0) warnings.push('the KV cache is unknown and left out: give config, or layers, kvHeads and headDim')
  const { bytesPerToken, constant } = fit.coefficients
  const host = bytesPerToken * (shape.vocabSize ?? TYPICAL_VOCABULARY) + constant + (CHIPS[soc] ?? 0)
  return sizeOnly({ weights, kv, host, warnings, architecture: shape.architecture ?? null, file })
}

/**
 * @param {object} found
 * @param {number} found.weights
 * @param {number} found.kv
 * @param {number} found.host
 * @param {string[]} found.warnings
 * @param {string | null} found.architecture
 * @param {ModelFile | null} found.file
 */
const sizeOnly = ({ weights, kv, host, warnings, architecture, file }) =>
  result({
    weights,
    kvCache: kv,
    activations: 0,
    hostBuffers: host,
    uncertainty: SIZE_ONLY,
    architecture,
    source: file ? 'file' : 'numbers',
    calibrated: false,
    warnings,
    file,
  })

/**
 * @param {Pick<ModelEstimate, 'weights' | 'kvCache' | 'activations' | 'hostBuffers' | 'uncertainty' | 'architecture' |
 *   'source' | 'warnings'> & { calibrated: boolean, file: ModelFile | null }} figures
 * @returns {ModelEstimate}
 */
function result({
  weights,
  kvCache,
  activations,
  hostBuffers,
  uncertainty,
  architecture,
  source,
  calibrated,
  warnings,
  file,
}) {
  const bytes = { weights, kvCache, activations, hostBuffers }
  const [w, kv, a, h] = Object.values(bytes).map(Math.ceil)
  const npuTotal = w + kv + a
  return {
    weights: w,
    kvCache: kv,
    activations: a,
    hostBuffers: h,
    npuTotal,
    total: npuTotal + h,
    uncertainty,
    architecture,
    source: file ? 'file' : source,
    measured: calibrated
      ? [
          'total: calibrated on peak resident memory that the vendor measured',
          'weights and hostBuffers: coefficients of that calibration',
        ]
      : [file ? 'weights: the size of the file' : 'weights: as given'],
    derived: [
      'npuTotal, kvCache, activations: follow from the shape; there are no measurements of NPU memory by itself',
      ...(calibrated ? [] : ['hostBuffers: typical of the calibration']),
    ],
    warnings,
  }
}

module.exports = { estimateModelMemory, estimate }
