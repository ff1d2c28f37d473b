'use strict'

// Shared by `plan` and `estimate`: the options and arguments that describe a model.

const { existsSync } = require('node:fs')
const { basename } = require('node:path')
const { UsageError, parseSize, wholeNumber } = require('./args.js')

const DEFAULT_CONTEXT = 4096

/** @type {Record<string, import('./args.js').Option>} */
const SHAPE = {
  context: { type: 'string', value: 'N', text: `tokens of context; default ${DEFAULT_CONTEXT}`, parse: wholeNumber(1) },
  config: { type: 'string', value: 'FILE', text: "the model's config.json from Hugging Face" },
  weights: { type: 'string', value: 'SIZE', text: 'bytes of weights, if there is no file', parse: parseSize },
  layers: { type: 'string', value: 'N', text: 'layers, if there is no config', parse: wholeNumber(1) },
  hidden: { type: 'string', value: 'N', text: 'hidden size', parse: wholeNumber(1) },
  'kv-heads': { type: 'string', value: 'N', text: 'key/value heads', parse: wholeNumber(1) },
  'head-dim': { type: 'string', value: 'N', text: 'dimension of a head', parse: wholeNumber(1) },
  vocab: { type: 'string', value: 'N', text: 'size of the vocabulary', parse: wholeNumber(1) },
  batch: { type: 'string', value: 'N', text: 'sequences at once', parse: wholeNumber(1) },
  'kv-bytes': { type: 'string', value: 'N', text: 'bytes of an element of the KV cache', parse: wholeNumber(1) },
}

const FIELDS = {
  config: 'config',
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
  return {
    contextLength: values.context ?? DEFAULT_CONTEXT,
    ...Object.fromEntries(given.map(([option, field]) => [field, values[option]])),
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
  if (!existsSync(found.path)) throw new UsageError(`there is no file ${found.path}`)
  return context === undefined ? found : { ...found, contextLength: wholeNumber(1)('the context', context) }
}

/** @param {string} path */
const nameOf = (path) => basename(path).replace(/\.(rkllm|rknn)$/, '')

module.exports = { DEFAULT_CONTEXT, SHAPE, parseModel, specOf }
