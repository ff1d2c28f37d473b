'use strict'

// Estimates a model's memory before it is loaded.

const fs = require('node:fs')
const { check, invalid, outOfRange, schemas, shown } = require('../core/options.js')
const fit = require('./fit.json')
const { inspect, openError } = require('./file.js')
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

const CHIPS = Object.keys(fit.coefficients.chips)
const NUMBERS = ['layers', 'hiddenSize', 'kvHeads', 'headDim', 'vocabSize']

/** Returns the configuration; `config` is the object or a path to a config.json. */
function configOf(config) {
  if (typeof config !== 'string') return config
  let text
  try {
    text = fs.readFileSync(config, 'utf8')
  } catch (error) {
    throw openError(config, error)
  }
  let parsed
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    throw invalid(`${config} is not JSON: ${error.message}`, 'name the config.json of the model')
  }
  if (!isObject(parsed)) throw invalid(`${config} does not hold an object`, 'name the config.json of the model')
  return parsed
}

function shapeFrom(spec, warnings) {
  const { shape } = shapeOf(spec.config === undefined ? {} : configOf(spec.config))
  for (const name of NUMBERS) if (spec[name] !== undefined) shape[name] = spec[name]
  const rwkv = shape.family === 'rwkv'
  const needed = ['layers', 'hiddenSize', 'vocabSize', ...(rwkv ? [] : ['kvHeads', 'headDim'])]
  const missing = needed.filter((name) => !(shape[name] > 0))
  if (spec.config !== undefined && missing.length > 0) {
    const names = missing.map((name) => (namesOf(name) ?? [name])[0]).join(', ')
    throw invalid(
      `the configuration has no ${names}`,
      `give ${missing.join(', ')} in the spec, or the language model's own config.json`,
    )
  }
  if (shape.layers > MAX_LAYERS)
    throw outOfRange(`the configuration has ${shape.layers} layers; at most ${MAX_LAYERS} are accepted`)
  if (spec.config !== undefined && shape.family === null) {
    const name =
      shape.architecture === null
        ? 'the configuration names no model_type'
        : `the architecture ${shown(shape.architecture)} is unknown`
    warnings.push(`${name}: estimated with gated layers and a wider band`)
  }
  return { shape, missing }
}

/**
 * Implements `estimateModelMemory`.
 *
 * @param {object} spec
 * @returns {object} a ModelEstimate
 */
function estimateModelMemory(spec) {
  if (spec === undefined) throw invalid('estimateModelMemory needs a ModelSpec, not undefined')
  const checked = check('estimateModelMemory', spec, schemas.model)
  return estimate(checked)
}

function estimate(spec) {
  const { contextLength, batch = 1, kvBytesPerElement = 2, soc = 'rk3588', dtype } = spec
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
  const { shape, missing } = vision ? { shape: {}, missing: [] } : shapeFrom(spec, warnings)
  if (!CHIPS.includes(soc)) warnings.push(`there are no measurements of ${soc}: estimated as rk3588`)

  if (vision) return sizeOnly({ weights: needsWeights(given), kv: 0, host: 0, warnings, architecture: 'rknn', file })
  if (missing.length > 0) {
    return fromSize(needsWeights(given), shape, { contextLength, batch, kvBytesPerElement, soc, warnings, file })
  }
  return fromShape(shape, given, {
    contextLength,
    batch,
    kvBytesPerElement,
    soc,
    dtype,
    warnings,
    file,
    config: spec.config !== undefined,
  })
}

function needsWeights(bytes) {
  if (bytes !== undefined) return bytes
  throw invalid('the weights are unknown', 'give weightBytes, path, or a config.json with the sizes of all layers')
}

/** Estimates from the whole shape: the calibrated sum of terms. */
function fromShape(shape, given, { contextLength, batch, kvBytesPerElement, soc, dtype, warnings, file, config }) {
  const countable = shape.family === 'rwkv' || (shape.heads > 0 && (shape.intermediateSize > 0 || shape.experts > 0))
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

/** Estimates from the size of the weights, and from the numbers that the spec gives. */
function fromSize(weights, shape, { contextLength, batch, kvBytesPerElement, soc, warnings, file }) {
  const cache = shape.layers > 0 && shape.kvHeads > 0 && shape.headDim > 0
  if (!cache) warnings.push('the KV cache is unknown and left out: give config, or layers, kvHeads and headDim')
  const kv = cache ? 2 * shape.layers * shape.kvHeads * shape.headDim * kvBytesPerElement * contextLength * batch : 0
  const { bytesPerToken, constant, chips } = fit.coefficients
  const host = bytesPerToken * (shape.vocabSize ?? TYPICAL_VOCABULARY) + constant + (chips[soc] ?? 0)
  return sizeOnly({ weights, kv, host, warnings, architecture: shape.architecture ?? null, file })
}

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
