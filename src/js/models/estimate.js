'use strict'

// Estimates a model's memory before it is loaded.

const { check, invalid } = require('../core/options.js')
const { formatBytes } = require('../core/format-bytes.js')
const { bestOf, measurementsByDefault, measurementsOf } = require('./calibration.js')
const { RUNTIMES, partsOf, runtimeOf } = require('./dtypes.js')
const fit = require('./fit.json')
const { inspect } = require('./file.js')
const { TYPICAL_VOCABULARY, compareWithConfig, weightsOfFile } = require('./file-weights.js')
const { estimateGguf, readModel } = require('./gguf-estimate.js')
const schemas = require('./options.js')
const { kindOfModel } = require('./parameters.js')
const { measuredHere, result } = require('./result.js')
const { NUMBERS, configOf, shapeFrom } = require('./spec.js')
const { FIRST_TOKENS, apply, bandClassOf, termsOf } = require('./terms.js')
const { hasAudio, visionOf } = require('./vision.js')

/** Uncertainties outside the calibration: an unknown architecture, a size that tells no vocabulary, a bare number. */
const UNKNOWN_ARCHITECTURE = 0.3
const SIZE_ONLY = 0.35
/** A runtime without measurements. */
const UNKNOWN_RUNTIME = 1.5
/** Group sizes with measurements; of others half of the scales is uncertain. */
const MEASURED_GROUPS = [128, 512]
const FLOAT = 4

/**
 * @typedef {import('../types/models.js').ModelEstimate} ModelEstimate
 * @typedef {import('../types/models.js').ModelSpec} ModelSpec
 * @typedef {import('../types/models.js').QuantizedType} QuantizedType
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
 * @property {import('./dtypes.js').Runtime} runtime
 * @property {boolean} runtimeMeasured
 * @property {boolean} embedFlash
 * @property {QuantizedType | undefined} dtype
 * @property {number | null} vision bytes of the vision part
 * @property {string[]} warnings
 * @property {(ModelFile & { path: string }) | null} file
 */

/** @type {Record<string, number>} Bytes that a chip's runtime takes more than the rk3588's. */
const CHIPS = fit.coefficients.chips
/** @type {(soc: string) => boolean} Whether the vendor has measured on a chip. */
const isMeasured = (soc) => Object.hasOwn(CHIPS, chipOf(soc))
/** @type {(soc: string) => string} The "s" of rk3588s is a package with fewer pins. */
const chipOf = (soc) => soc.replace(/s$/, '')
/** @type {Record<string, number>} Half-widths of bands, by class. */
const BANDS = fit.uncertainty

/**
 * Implements `estimateModelMemory`.
 *
 * @param {ModelSpec} spec
 * @returns {ModelEstimate}
 */
function estimateModelMemory(spec) {
  if (spec === undefined) throw invalid('estimateModelMemory needs a ModelSpec, not undefined')
  return estimate(check('estimateModelMemory', spec, schemas.model))
}

/**
 * The parts of one file that estimates have read: its head, a GGUF model's tensors, its measurements. A search for a
 * context estimates many times, and reads once.
 *
 * @typedef {{ head?: ModelFile, gguf?: import('./gguf.js').Gguf, entries?: import('./calibration.js').Entry[] }} Seen
 */

/**
 * Estimates, and takes this machine's own measurement of the file where there is one.
 *
 * @param {ModelSpec} spec checked
 * @param {Seen} [seen] of the same file and the same calibration file
 * @returns {ModelEstimate}
 */
function estimate(spec, seen = {}) {
  const estimated = estimateFromShape(spec, seen)
  const { path, calibration, runtime, contextLength = null } = spec
  if (path === undefined || calibration === false) return estimated
  seen.entries ??= calibration === undefined ? measurementsByDefault(path) : measurementsOf(calibration, path)
  const measurement = bestOf(seen.entries, { runtime, contextLength })
  return measurement === null ? estimated : measuredHere(estimated, measurement, contextLength)
}

/**
 * @param {ModelSpec} spec checked
 * @param {Seen} seen
 * @returns {ModelEstimate}
 */
function estimateFromShape(spec, seen) {
  const { contextLength } = spec
  const found = spec.path === undefined ? null : (seen.head ??= inspect(spec.path))
  const file = found === null ? null : { ...found, path: /** @type {string} */ (spec.path) }
  const given = spec.weightBytes ?? file?.size
  if (given === undefined && spec.config === undefined && !NUMBERS.some((name) => spec[name] !== undefined)) {
    throw invalid('a ModelSpec needs path, weightBytes or config', 'e.g. { path: "model.rkllm", contextLength: 4096 }')
  }
  const warnings = [...(file?.warnings ?? [])]
  const config = spec.config === undefined ? {} : configOf(spec.config)
  if (spec.type === 'vision' || file?.kind === 'rknn') return estimateVision(spec, given, config, file, warnings)
  if (contextLength === undefined)
    throw invalid('contextLength is missing', 'pass the value that RKLLMParam.max_context_len will have')
  if (file?.kind === 'gguf') {
    seen.gguf ??= readModel(file.path)
    return estimateGguf(seen.gguf, file.path, { ...spec, contextLength }, warnings)
  }
  const run = runOf({ ...spec, contextLength }, config, file, warnings)
  const { shape, missing } = shapeFrom(spec, config, warnings)
  if (missing.length > 0) return fromSize(spec, shape, run)
  return fromShape(/** @type {Shape} */ (shape), spec, run)
}

/**
 * @param {ModelSpec & { contextLength: number }} spec
 * @param {Record<string, unknown>} config
 * @param {Run['file']} file
 * @param {string[]} warnings
 * @returns {Run}
 */
function runOf(spec, config, file, warnings) {
  const { contextLength, batch = 1, kvBytesPerElement = 2, dtype } = spec
  const soc = chipOf(spec.soc ?? 'rk3588')
  const newest = /** @type {string} */ (RUNTIMES.at(-1))
  const version = spec.runtime ?? newest
  const { runtime, measured } = runtimeOf(version)
  if (!isMeasured(soc)) warnings.push(`there are no measurements of ${soc}: estimated as rk3588`)
  if (!measured) warnings.push(`there are no measurements of runtime ${version}: estimated as ${runtime}`)
  const embedFlash = spec.embedFlash ?? runtime !== '1.1'
  if (embedFlash && runtime === '1.1')
    warnings.push(`runtime ${version} has no embed_flash: the table of embeddings is counted in RAM`)
  const vision = visionOf(config)
  if (vision !== null) warnings.push(visionWarning(vision.bytes))
  if (hasAudio(config)) warnings.push('the configuration has an audio part, which is not counted')
  return {
    contextLength,
    batch,
    kvBytesPerElement,
    soc,
    runtime,
    runtimeMeasured: measured,
    embedFlash: embedFlash && runtime !== '1.1',
    dtype: /** @type {QuantizedType | undefined} */ (dtype),
    vision: vision?.bytes ?? null,
    warnings,
    file: file?.kind === 'safetensors' ? safetensors(file, spec, warnings) : file,
  }
}

/** @param {number | null} bytes */
const visionWarning = (bytes) =>
  bytes === null
    ? 'the configuration has a vision part of unknown size, a .rknn file of its own: it is not counted'
    : `the configuration has a vision part, a .rknn file of its own: about ${formatBytes(bytes)} more, which the ` +
      'other figures do not count; plan it as a model of type "vision"'

/**
 * A safetensors file is the source of a conversion: its size is not that of the converted model.
 *
 * @param {NonNullable<Run['file']>} file
 * @param {ModelSpec} spec
 * @param {string[]} warnings
 */
function safetensors(file, spec, warnings) {
  const instead = spec.config === undefined ? 'its size is halved, as of 16-bit weights' : 'the configuration is used'
  warnings.push(
    `${file.path} is a safetensors file, which no runtime of the NPU loads: ${instead}; convert it with rkllm-toolkit`,
  )
  if (spec.config !== undefined) return null
  return { ...file, size: Math.ceil(file.size * partsOf(spec.dtype ?? 'w8a8').bytes * 0.5) }
}

/**
 * Estimates a vision encoder: a .rknn file, or the vision part of a configuration.
 *
 * @param {ModelSpec} spec
 * @param {number | undefined} given
 * @param {Record<string, unknown>} config
 * @param {Run['file']} file
 * @param {string[]} warnings
 */
function estimateVision(spec, given, config, file, warnings) {
  const weights = given ?? visionOf(config)?.bytes ?? undefined
  const known = requireWeights(weights)
  return result({
    weights: known,
    domain: known,
    domainShare: SIZE_ONLY,
    uncertainty: SIZE_ONLY,
    architecture: 'rknn',
    source: file ? 'file' : given === undefined ? 'config' : 'numbers',
    basis: 'arithmetic',
    dtype: null,
    runtime: null,
    warnings,
  })
}

/**
 * @param {number | null | undefined} bytes
 * @param {string[]} [missing] fields of the configuration that would tell the weights
 */
function requireWeights(bytes, missing = []) {
  if (bytes !== undefined && bytes !== null) return bytes
  const without = missing.length === 0 ? '' : `: the configuration has no ${missing.join(', ')}`
  throw invalid(
    `the weights are unknown${without}`,
    'give weightBytes, path, or a config.json with the sizes of all layers',
  )
}

/**
 * Estimates from the whole shape: the calibrated sum of terms.
 *
 * @param {Shape} shape
 * @param {ModelSpec} spec
 * @param {Run} run
 * @returns {ModelEstimate}
 */
function fromShape(shape, spec, run) {
  const has = (/** @type {number | null | undefined} */ count) => (count ?? 0) > 0
  const config = spec.config !== undefined
  const { file, warnings, soc, runtime } = run
  const missing = []
  if (config && shape.family !== 'rwkv') {
    if (!has(shape.heads)) missing.push('num_attention_heads')
    if (!has(shape.intermediateSize) && !has(shape.experts)) missing.push('intermediate_size')
  }
  if (!config || missing.length > 0) {
    requireWeights(spec.weightBytes ?? file?.size, missing)
    return fromSize(spec, shape, run)
  }
  const terms = termsOf(shape, { context: run.contextLength, batch: run.batch, kvBytes: run.kvBytesPerElement })
  const compared = file === null || spec.weightBytes ? null : compareWithConfig(file, terms, run.dtype)
  if (compared !== null) warnings.push(...compared.warnings)
  const dtype = compared?.dtype ?? run.dtype ?? 'w8a8'
  if (file === null && run.dtype === undefined && spec.weightBytes === undefined)
    warnings.push('dtype is not given: estimated as w8a8')
  const figures = apply(fit.coefficients, terms, { dtype, chip: soc, runtime, embedFlash: run.embedFlash })
  const given = spec.weightBytes ?? compared?.weights ?? null
  const bySize = compared !== null && compared.weights !== null
  const weights = given ?? figures.weights
  const loaded = figures.loaded - figures.weights + weights
  return result({
    weights,
    kvCache: terms.kvCache,
    kvFirst: terms.kvFirst,
    activations: terms.activations,
    hostBuffers: figures.host,
    domain: figures.domain - figures.weights + weights,
    domainShare: bySize || shape.family === null ? SIZE_ONLY : 0,
    uncertainty: bySize
      ? SIZE_ONLY
      : bandOf(shape, run, { dtype, loaded, scores: terms.scores, table: figures.table }),
    architecture: shape.architecture,
    source: file ? 'file' : 'config',
    basis: given === null ? 'calibrated' : 'arithmetic',
    dtype,
    runtime,
    vision: run.vision,
    warnings,
  })
}

/**
 * Returns the half-width of the band around `loaded`: that of the calibration, and the parts that it does not have.
 *
 * @param {Shape} shape
 * @param {Run} run
 * @param {{ dtype: QuantizedType, loaded: number, scores: number, table: number }} figures
 */
function bandOf(shape, { runtime, runtimeMeasured, embedFlash, warnings }, { dtype, loaded, scores, table }) {
  if (shape.family === null) return UNKNOWN_ARCHITECTURE
  const kind = kindOfModel(shape)
  if (kind === 'experts') warnings.push('the calibration has one model with experts: the band is wider')
  let bytes = BANDS[bandClassOf({ runtime, dtype, kind })] * (runtimeMeasured ? 1 : UNKNOWN_RUNTIME) * loaded
  const { group, bytes: perWeight, eightBits } = partsOf(dtype)
  if (group !== null && !MEASURED_GROUPS.includes(group)) {
    const scales = fit.coefficients.groupBytes[eightBits ? 'w8a8' : 'w4a16'] / group
    bytes += (0.5 * scales * loaded) / (perWeight + scales)
    warnings.push(`there are no measurements of ${dtype}: its scales are estimated from other group sizes`)
  }
  // The vendor's contexts are short, so the scores against a long one are arithmetic.
  bytes += scores
  if (runtime !== '1.1' && !embedFlash) {
    bytes += table / 2
    warnings.push('embedFlash is false: the table of embeddings is counted in RAM as float32, as before 1.2.0')
  }
  return bytes / loaded
}

/**
 * Estimates from the size of the weights, and from the numbers that the spec gives.
 *
 * @param {ModelSpec} spec
 * @param {PartialShape} shape
 * @param {Run} run
 * @returns {ModelEstimate}
 */
function fromSize(spec, shape, run) {
  const { contextLength, batch, kvBytesPerElement, soc, runtime, warnings, file } = run
  const bySize = file && (file.kind === 'safetensors' ? file.size : weightsOfFile(file.size, shape))
  const weights = requireWeights(spec.weightBytes ?? bySize)
  const perToken = 2 * (shape.layers ?? 0) * (shape.kvHeads ?? 0) * (shape.headDim ?? 0) * kvBytesPerElement * batch
  if (perToken === 0) warnings.push('the KV cache is unknown and left out: give config, or layers, kvHeads and headDim')
  const vocabulary = shape.vocabSize || TYPICAL_VOCABULARY
  const { bytesPerToken, constants } = fit.coefficients
  const table = run.embedFlash || !shape.hiddenSize ? 0 : vocabulary * shape.hiddenSize * FLOAT
  const hostBuffers =
    (runtime === '1.1' ? 0 : bytesPerToken * vocabulary) + constants[runtime] + (CHIPS[soc] ?? 0) + table + OTHER_HOST
  return result({
    weights,
    kvCache: perToken * contextLength,
    kvFirst: perToken * Math.min(contextLength, FIRST_TOKENS),
    activations: 0,
    hostBuffers: Math.max(0, hostBuffers),
    domain: weights + OTHER_HOST,
    domainShare: spec.weightBytes === undefined ? SIZE_ONLY : 0,
    uncertainty: SIZE_ONLY,
    architecture: shape.architecture ?? null,
    source: file ? 'file' : 'numbers',
    basis: 'arithmetic',
    dtype: null,
    runtime,
    vision: run.vision,
    warnings,
  })
}

/** Commands of the NPU of a typical model: 200 matrices. */
const OTHER_HOST = 200 * fit.coefficients.bytesPerMatrix

module.exports = { estimateModelMemory, estimate, isMeasured }
