'use strict'

// The options of sampling, which RKLLMParam and RKLLMSamplingParam have in common.

const { invalid, kinds, outOfRange, formatValue } = require('../core/options.js')

const INT_MAX = 2 ** 31 - 1
const FLOAT_MAX = (2 - 2 ** -23) * 2 ** 127

/** @type {(min: number, max?: number) => import('../core/options.js').Validator<number>} Numbers of C's float. */
const float =
  (min, max = FLOAT_MAX) =>
  (name, value) => {
    if (typeof value !== 'number') throw invalid(`${name} must be a number, not ${formatValue(value)}`)
    if (value >= min && value <= max) return value
    const lower = min === -FLOAT_MAX ? 'a finite float' : `at least ${min}, and a finite float`
    throw outOfRange(`${name} is ${value}; it must be ${max === FLOAT_MAX ? lower : `from ${min} to ${max}`}`)
  }

const samplingSchema = {
  topK: kinds.integer(0, INT_MAX),
  topP: float(0, 1),
  temperature: float(0),
  repeatPenalty: float(0),
  frequencyPenalty: float(-FLOAT_MAX),
  presencePenalty: float(-FLOAT_MAX),
  mirostat: kinds.integer(0, 2),
  mirostatTau: float(0),
  mirostatEta: float(0),
}

/** Our defaults (sessions.md). The vendor's of rkllm_createDefaultParam are not documented. */
const DEFAULTS = {
  topK: 40,
  topP: 0.9,
  temperature: 0.8,
  repeatPenalty: 1.1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  mirostat: 0,
  mirostatTau: 5,
  mirostatEta: 0.1,
}

/** The fields of the options. */
const FIELDS = /** @type {const} */ ({
  topK: 'top_k',
  topP: 'top_p',
  temperature: 'temperature',
  repeatPenalty: 'repeat_penalty',
  frequencyPenalty: 'frequency_penalty',
  presencePenalty: 'presence_penalty',
  mirostat: 'mirostat',
  mirostatTau: 'mirostat_tau',
  mirostatEta: 'mirostat_eta',
})

/**
 * Names the options that are present as the fields of the struct.
 *
 * @param {Partial<Record<keyof typeof FIELDS, number>>} options
 * @returns {Record<string, number>}
 */
function readSampling(options) {
  /** @type {Record<string, number>} */
  const values = {}
  for (const [option, field] of Object.entries(FIELDS)) {
    const value = options[/** @type {keyof typeof FIELDS} */ (option)]
    if (value !== undefined) values[field] = value
  }
  return values
}

module.exports = { FLOAT_MAX, defaultSampling: readSampling(DEFAULTS), float, readSampling, samplingSchema }
