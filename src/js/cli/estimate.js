'use strict'

// `rkllm-memory estimate MODEL`: estimates a model's memory once loaded and with a full context, with its bands.

const { UsageError, expectWords } = require('./args.js')
const { SHAPE, parseModel, printWarnings, specOf } = require('./models.js')
const { bytes, columns } = require('./style.js')

/** @type {Array<['weights' | 'kvCache' | 'activations' | 'hostBuffers' | 'loaded' | 'full', string]>} */
const PARTS = [
  ['weights', 'weights'],
  ['kvCache', 'KV cache, full'],
  ['activations', 'activations'],
  ['hostBuffers', 'host buffers'],
  ['loaded', 'once loaded'],
  ['full', 'with a full context'],
]

/** @type {import('./args.js').Command} */
const command = {
  name: 'estimate',
  summary: 'estimates the memory that a model needs',
  words: '[MODEL]',
  options: { ...SHAPE, json: { type: 'boolean', text: 'as JSON' } },
  notes: [
    'MODEL is a .rkllm, .rknn or .gguf file. It may be left out if --weights or --config is given. With --config the ' +
      'estimate is calibrated; the size of a .rkllm file alone tells less, because the file holds the embeddings too.',
  ],
  examples: [
    'rkllm-memory estimate qwen.rkllm --config config.json',
    'rkllm-memory estimate --config config.json --dtype w4a16_g128',
    'rkllm-memory estimate --weights 1.6GiB --context 8192',
  ],
  run({ values, words, paint, print, json, width }) {
    const [word] = expectWords(words, ['MODEL'], 0)
    if (word === undefined && values.weights === undefined && values.config === undefined)
      throw new UsageError('MODEL is missing')
    const { name, ...model } = word === undefined ? {} : parseModel(word)
    const spec = { ...specOf(values), ...model }
    const estimate = require('../../../index.js').estimateModelMemory(spec)
    if (values.json) return json({ spec, ...estimate })
    print(`${paint.bold(name ?? 'the model')}, ${spec.contextLength} tokens of context${setupOf(estimate)}\n`)
    const { loaded = estimate.total, full = estimate.total, uncertainty, loadedUncertainty = uncertainty } = estimate
    const figures = { ...estimate, loaded, full }
    const rows = columns(PARTS.map(([key, what]) => [`  ${what}`, bytes(figures[key])]))
    rows.forEach((row, at) => print(at >= PARTS.length - 2 ? paint.bold(row) : row))
    const { domain, vision, basis, measured = [] } = estimate
    if (basis === 'measured-here') print(`\n  ${measured[0]}`)
    if (domain) print(`\n  In an NPU domain: ${bytes(domain.bytes)}, at most ${bytes(domain.max)}.`)
    if (vision) print(`  The vision part, a file of its own: ${bytes(vision)} more.`)
    print(`\n  9 of 10 models are between ${between(loaded, loadedUncertainty)} once loaded,`)
    print(`  and between ${between(full, uncertainty)} with a full context.`)
    printWarnings(estimate.warnings, { paint, print, width })
  },
}

/** @param {{ dtype?: string | null, runtime?: string | null }} estimate */
const setupOf = ({ dtype, runtime }) => `${dtype ? `, ${dtype}` : ''}${runtime ? `, runtime ${runtime}` : ''}`

/**
 * @param {number} figure
 * @param {number} uncertainty
 */
function between(figure, uncertainty) {
  const half = figure * uncertainty
  const share = Math.round(uncertainty * 100)
  return `${bytes(Math.max(0, figure - half))} and ${bytes(figure + half)} (± ${share} %)`
}

module.exports = command
