'use strict'

// `rkllm-memory estimate MODEL`: estimates a model's memory, with its uncertainty.

const { UsageError, expectWords } = require('./args.js')
const { SHAPE, parseModel, specOf } = require('./models.js')
const { bytes, columns } = require('./style.js')

/** @type {Array<['weights' | 'kvCache' | 'activations' | 'hostBuffers' | 'npuTotal' | 'total', string]>} */
const PARTS = [
  ['weights', 'weights'],
  ['kvCache', 'KV cache'],
  ['activations', 'activations'],
  ['hostBuffers', 'host buffers'],
  ['npuTotal', 'on the NPU'],
  ['total', 'in total'],
]

/** @type {import('./args.js').Command} */
const command = {
  name: 'estimate',
  summary: 'estimates the memory that a model needs',
  words: '[MODEL]',
  options: { ...SHAPE, json: { type: 'boolean', text: 'as JSON' } },
  notes: [
    'MODEL is a .rkllm or .rknn file. It may be left out if --weights or --config is given. Example: rkllm-memory ' +
      'estimate --config config.json --weights 1.6GiB --context 8192',
  ],
  run({ values, words, paint, print, json }) {
    const [word] = expectWords(words, ['MODEL'], 0)
    if (word === undefined && values.weights === undefined && values.config === undefined)
      throw new UsageError('MODEL is missing')
    const { name, ...model } = word === undefined ? {} : parseModel(word)
    const spec = { ...specOf(values), ...model }
    const estimate = require('../../../index.js').estimateModelMemory(spec)
    if (values.json) return json({ spec, ...estimate })
    print(`${paint.bold(name ?? 'the model')}, ${spec.contextLength} tokens of context\n`)
    const rows = columns(PARTS.map(([key, what]) => [`  ${what}`, bytes(estimate[key])]))
    rows.forEach((row, at) => print(at >= PARTS.length - 2 ? paint.bold(row) : row))
    const half = estimate.total * estimate.uncertainty
    print(
      `\n  9 of 10 models are between ${bytes(Math.max(0, estimate.total - half))} and ` +
        `${bytes(estimate.total + half)} (± ${Math.round(estimate.uncertainty * 100)} %)`,
    )
  },
}

module.exports = command
