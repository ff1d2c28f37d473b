'use strict'

// Reads the shape of a model from a spec: its configuration, and the numbers beside it.

const fs = require('node:fs')
const { invalid, outOfRange, formatValue } = require('../core/options.js')
const { openError } = require('../core/system-errors.js')
const { isObject, namesOf, shapeOf } = require('./shape.js')

/** Bounds the loop over layers. */
const MAX_LAYERS = 4096

const NUMBERS = /** @type {const} */ (['layers', 'hiddenSize', 'kvHeads', 'headDim', 'vocabSize'])

/** @typedef {import('../types/models.js').ModelSpec} ModelSpec */

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
 * @param {Record<string, unknown>} config empty if the spec has none
 * @param {string[]} warnings
 */
function shapeFrom(spec, config, warnings) {
  const { shape, assumed } = shapeOf(config)
  const open = assumed.filter((field) => !NUMBERS.some((name) => spec[name] !== undefined && nameIs(name, field)))
  for (const name of NUMBERS) if (spec[name] !== undefined) shape[name] = spec[name]
  const rwkv = shape.family === 'rwkv'
  const needed = NUMBERS.filter((name) => !rwkv || (name !== 'kvHeads' && name !== 'headDim'))
  const missing = needed.filter((name) => !((shape[name] ?? 0) > 0))
  if (spec.config !== undefined && missing.length > 0) {
    const names = missing.map((name) => namesOf(name)[0]).join(', ')
    throw invalid(
      `the configuration has no ${names}`,
      `give ${missing.join(', ')} in the spec, or the language model's own config.json`,
    )
  }
  if ((shape.layers ?? 0) > MAX_LAYERS)
    throw outOfRange(`the configuration has ${shape.layers} layers; at most ${MAX_LAYERS} are accepted`)
  if (open.length > 0)
    warnings.push(
      `the configuration leaves ${open.join(', ')} to the defaults of ${formatValue(shape.architecture)}: ` +
        'they are taken from Hugging Face transformers',
    )
  if (spec.config !== undefined && shape.family === null) {
    const name =
      shape.architecture === null
        ? 'the configuration names no model_type'
        : `the architecture ${formatValue(shape.architecture)} is unknown`
    warnings.push(`${name}: estimated with gated layers and a wider band`)
  }
  return { shape, missing }
}

/** @type {(name: (typeof NUMBERS)[number], field: string) => boolean} */
const nameIs = (name, field) => namesOf(name).includes(field)

module.exports = { NUMBERS, configOf, shapeFrom }
