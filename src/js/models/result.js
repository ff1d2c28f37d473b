'use strict'

// Makes a ModelEstimate of its parts: sums, the two bands, and where each figure comes from.

/**
 * The share of the KV cache that is uncertain: it follows from the shape, and only its element was seen (a saved prompt
 * of 290 tokens of Qwen3-0.6B has float16's size).
 */
const KV_BAND = 0.15
/** Measurements of one file on one machine repeat within this share. */
const MEASURED_BAND = 0.01
/** Bytes beside the weights in a domain may be twice the estimate: no source publishes them. */
const DOMAIN_SLACK = 2

/**
 * @typedef {import('../types/models.js').ModelEstimate} ModelEstimate
 *
 * @typedef {object} Parts
 * @property {number} weights
 * @property {number} [kvCache] of a full context
 * @property {number} [kvFirst] of a first short exchange
 * @property {number} [activations]
 * @property {number} [hostBuffers]
 * @property {number} domain bytes that take addresses in a domain
 * @property {number} uncertainty of `loaded`
 * @property {number} [domainShare] the share of the weights that a domain may have to hold beyond the estimate
 * @property {string | null} architecture
 * @property {ModelEstimate['source']} source
 * @property {ModelEstimate['basis']} basis
 * @property {ModelEstimate['dtype']} dtype
 * @property {string | null} runtime
 * @property {number | null} [vision]
 * @property {string[]} warnings
 */

/**
 * @param {Parts} parts
 * @returns {ModelEstimate}
 */
function result(parts) {
  const { uncertainty, basis, source } = parts
  const [weights, kvCache, kvFirst, activations, hostBuffers, domain] = [
    parts.weights,
    parts.kvCache ?? 0,
    parts.kvFirst ?? parts.kvCache ?? 0,
    parts.activations ?? 0,
    parts.hostBuffers ?? 0,
    parts.domain,
  ].map(Math.ceil)
  const npuTotal = weights + kvCache + activations
  const full = npuTotal + hostBuffers
  const loaded = full - kvCache + kvFirst
  const later = full - loaded
  // How much of the reserved cache a runtime touches at once is not published.
  const loadedUncertainty = uncertainty + (KV_BAND * later) / loaded
  return {
    weights,
    kvCache,
    activations,
    hostBuffers,
    npuTotal,
    total: full,
    uncertainty: (uncertainty * loaded + Math.max(KV_BAND, uncertainty) * later) / full,
    loaded,
    loadedUncertainty,
    full,
    domain: { bytes: domain, max: domainMax(parts, weights, domain) },
    vision: parts.vision ?? null,
    basis,
    architecture: parts.architecture,
    dtype: parts.dtype,
    runtime: parts.runtime,
    source,
    measured:
      basis === 'calibrated'
        ? [
            'loaded: calibrated on peak resident memory that the vendor measured, contexts of 192 and 320 tokens',
            'hostBuffers: coefficients of that calibration',
          ]
        : [source === 'file' ? 'weights: from the size of the file' : 'weights: as given'],
    derived: [
      'weights, kvCache, activations, npuTotal, domain: follow from the shape',
      'full: loaded, and the KV cache of the rest of the context, which is resident once it is used',
      ...(basis === 'calibrated' ? [] : ['hostBuffers: typical of the calibration']),
    ],
    warnings: parts.warnings,
  }
}

/**
 * Returns the most bytes in a domain: counted weights are exact, scales of groups and sizes of files are not.
 *
 * @param {Parts} parts
 * @param {number} weights
 * @param {number} domain
 */
function domainMax({ domainShare = 0, uncertainty, dtype }, weights, domain) {
  const scales = dtype !== null && dtype.includes('_g') ? uncertainty / 2 : 0
  // Of a GGUF file a part of the weights is on the NPU.
  const inDomain = Math.min(weights, domain)
  return Math.ceil(inDomain * (1 + Math.max(domainShare, scales)) + (domain - inDomain) * DOMAIN_SLACK)
}

/**
 * Puts this machine's measurement in the place of the estimate of what is loaded.
 *
 * @param {ModelEstimate} estimated
 * @param {import('./calibration.js').Entry} measurement
 * @param {number | null} contextLength
 * @returns {ModelEstimate}
 */
function measuredHere(estimated, measurement, contextLength) {
  const { footprint: loaded, npu, dmaBufs, runtime, driver, at } = measurement
  const later = estimated.full - estimated.loaded
  const full = loaded + later
  const otherContext = measurement.contextLength !== null && measurement.contextLength !== contextLength
  const loadedUncertainty = MEASURED_BAND + (otherContext ? estimated.activations / loaded : 0)
  // The parts stay estimates; host buffers take up the difference, and the weights what they cannot.
  const over = Math.max(0, estimated.npuTotal - full)
  const npuTotal = estimated.npuTotal - over
  const bytes = Math.max(npu, dmaBufs)
  const versions = [runtime && `runtime ${runtime}`, driver && `driver ${driver}`].filter(Boolean)
  const date = new Date(at).toISOString().slice(0, 10)
  const warnings = [...estimated.warnings]
  if (otherContext)
    warnings.push(`measured here with a context of ${measurement.contextLength}: the band of another is wider`)
  return {
    ...estimated,
    weights: Math.max(0, estimated.weights - over),
    npuTotal,
    hostBuffers: full - npuTotal,
    total: full,
    uncertainty: (loadedUncertainty * loaded + KV_BAND * later) / full,
    loaded,
    loadedUncertainty,
    full,
    domain: bytes > 0 ? { bytes, max: Math.ceil(bytes * (1 + MEASURED_BAND)) } : estimated.domain,
    basis: 'measured-here',
    measured: [`loaded: measured here on ${[date, ...versions].join(', ')}`],
    derived: ['full: loaded, and the KV cache of the rest of the context', 'the parts: as estimated'],
    warnings,
  }
}

module.exports = { measuredHere, result }
