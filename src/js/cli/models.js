'use strict'

// Shared by `plan`, `estimate` and `measure`: the options and arguments that describe a model.

const { existsSync } = require('node:fs')
const { basename } = require('node:path')
const { memoryError } = require('../core/errors.js')
const { DTYPES, numbersOf } = require('../models/dtypes.js')
const { UsageError, oneOf, parseSize, wholeNumber } = require('./args.js')
const { wrap } = require('./style.js')

const DEFAULT_CONTEXT = 4096
/** The chips that librkllmrt supports; the vendor measures the first four. */
const SOCS = ['rk3588', 'rk3576', 'rk3562', 'rv1126b', 'rk3588s']

/** @type {Record<string, import('./args.js').Option>} What a model of either command is run with. */
const RUN = {
  context: { type: 'string', value: 'N', text: `tokens of context; default ${DEFAULT_CONTEXT}`, parse: wholeNumber(1) },
  dtype: {
    type: 'string',
    value: 'TYPE',
    text: 'w8a8, w4a16, one of them with _g32 _g64 _g128 _g256 _g512, or w4a8_g32; default: by the file, else w8a8',
    parse: oneOf(...DTYPES),
  },
  runtime: {
    type: 'string',
    value: 'VERSION',
    text: 'of librkllmrt, as 1.2.3; default: the newest that was measured',
    parse: (name, word) => {
      if (numbersOf(word) !== null) return word
      throw new UsageError(`${name} is ${JSON.stringify(word)}; it must be a version`, 'as 1.1.4, 1.2.3 or 1.3.0')
    },
  },
  'embed-flash': { type: 'boolean', text: 'embeddings stay in the file (RKLLMExtendParam.embed_flash); the default' },
  'no-embed-flash': { type: 'boolean', text: 'embeddings are in RAM, as always before runtime 1.2.0' },
  calibration: {
    type: 'string',
    value: 'FILE',
    text: 'the file with what was measured here, or none; default: where measure stores it',
  },
  batch: { type: 'string', value: 'N', text: 'sequences at once', parse: wholeNumber(1) },
  'kv-bytes': { type: 'string', value: 'N', text: 'bytes of an element of the KV cache', parse: wholeNumber(1) },
}

/** @type {Record<string, import('./args.js').Option>} */
const SHAPE = {
  ...RUN,
  config: { type: 'string', value: 'FILE', text: "the model's config.json from Hugging Face" },
  soc: { type: 'string', value: 'SOC', text: `${SOCS.join(', ')}; default rk3588`, parse: oneOf(...SOCS) },
  weights: { type: 'string', value: 'SIZE', text: 'bytes of weights, if there is no file', parse: parseSize },
  layers: { type: 'string', value: 'N', text: 'layers, if there is no config', parse: wholeNumber(1) },
  hidden: { type: 'string', value: 'N', text: 'hidden size', parse: wholeNumber(1) },
  'kv-heads': { type: 'string', value: 'N', text: 'key/value heads', parse: wholeNumber(1) },
  'head-dim': { type: 'string', value: 'N', text: 'dimension of a head', parse: wholeNumber(1) },
  vocab: { type: 'string', value: 'N', text: 'size of the vocabulary', parse: wholeNumber(1) },
}

const FIELDS = {
  config: 'config',
  dtype: 'dtype',
  soc: 'soc',
  runtime: 'runtime',
  weights: 'weightBytes',
  layers: 'layers',
  hidden: 'hiddenSize',
  'kv-heads': 'kvHeads',
  'head-dim': 'headDim',
  vocab: 'vocabSize',
  batch: 'batch',
  'kv-bytes': 'kvBytesPerElement',
}

/**
 * Makes a ModelSpec of the options that are given.
 *
 * @param {Record<string, any>} values
 */
function specOf(values) {
  const given = Object.entries(FIELDS).filter(([option]) => values[option] !== undefined)
  if (values['embed-flash'] && values['no-embed-flash'])
    throw new UsageError('--embed-flash and --no-embed-flash exclude each other')
  return {
    contextLength: values.context ?? DEFAULT_CONTEXT,
    ...Object.fromEntries(given.map(([option, field]) => [field, values[option]])),
    ...(values.calibration === undefined
      ? {}
      : { calibration: values.calibration === 'none' ? false : values.calibration }),
    ...(values['embed-flash'] ? { embedFlash: true } : values['no-embed-flash'] ? { embedFlash: false } : {}),
  }
}

/**
 * Parses "path[:name][@context]" to { path, name, contextLength? }. The whole word may also be the name of a file.
 *
 * @param {string} word
 */
function parseModel(word) {
  if (existsSync(word)) return { path: word, name: nameOf(word) }
  const [, rest, context] = /^(.+?)(?:@(\d+))?$/.exec(word) ?? [undefined, word]
  const [, path, name] = /^(.+):([^:/]+)$/.exec(rest) ?? [undefined, rest]
  const found = existsSync(rest) ? { path: rest, name: nameOf(rest) } : { path, name: name ?? nameOf(path) }
  if (!existsSync(found.path)) {
    const [message, hint] = [`there is no file ${found.path}`, 'check its spelling']
    throw memoryError('ERR_DEVICE_IO', message, { path: found.path, hint })
  }
  return context === undefined ? found : { ...found, contextLength: wholeNumber(1)('the context', context) }
}

/** @param {string} path */
const nameOf = (path) => basename(path).replace(/\.(rkllm|rknn|gguf)$/, '')

/**
 * Prints what was assumed, and where sources disagree.
 *
 * @param {string[] | undefined} warnings
 * @param {Pick<import('./args.js').Context, 'paint' | 'print' | 'width'>} context
 */
function printWarnings(warnings, { paint, print, width }) {
  if (warnings === undefined || warnings.length === 0) return
  print('')
  for (const warning of warnings) print(`  ${paint.yellow('!')} ${wrap(warning, width - 4, 4).join('\n')}`)
}

module.exports = { RUN, SHAPE, parseModel, printWarnings, specOf }
