'use strict'

// `rkllm-memory measure -- COMMAND`: measures the memory of the model that a command loads, and stores the figures.

const { basename } = require('node:path')
const { memoryError } = require('../core/errors.js')
const { UsageError, wholeNumber } = require('./args.js')
const { RUN } = require('./models.js')
const { bytes, columns, plain } = require('./style.js')

const MODEL = /\.(?:rkllm|rknn|gguf)$/i

/** @type {NodeJS.Signals[]} */
const ENDS = ['SIGINT', 'SIGTERM', 'SIGHUP']

/** @type {Array<['footprint' | 'resident' | 'anonymous' | 'file' | 'shmem' | 'npu' | 'dmaBufs' | 'peak' | 'cma' |
 *   'availableDrop', string]>} */
const FIGURES = [
  ['footprint', 'footprint'],
  ['resident', 'resident'],
  ['anonymous', '  heap'],
  ['file', '  files'],
  ['shmem', '  shared memory'],
  ['npu', 'mapped NPU objects'],
  ['dmaBufs', 'dma-bufs'],
  ['peak', 'footprint at most'],
  ['cma', 'CMA taken'],
  ['availableDrop', 'less RAM available'],
]

/** @type {import('./args.js').Command} */
const command = {
  name: 'measure',
  summary: 'measures the memory of the model that a command loads, for later estimates',
  words: '-- COMMAND',
  options: {
    model: { type: 'string', value: 'FILE', text: 'the model file; default: the one among the words of COMMAND' },
    until: {
      type: 'string',
      value: 'TEXT|TIME',
      text: 'it is loaded when its output matches TEXT (a pattern), or after 30s; default: when it stops growing',
      parse: parseUntil,
    },
    context: { type: 'string', value: 'N', text: 'tokens of context of this run', parse: wholeNumber(1) },
    runtime: { ...RUN.runtime, text: 'of librkllmrt, as 1.2.3; default: what the output names' },
    calibration: { type: 'string', value: 'FILE', text: 'the file to store it in, or none' },
    json: { type: 'boolean', text: 'as JSON' },
  },
  notes: [
    'The command is ended once the model is loaded. Its output goes to standard error. Estimates of the same file ' +
      'are then measured here, within 1 %.',
  ],
  examples: ['rkllm-memory measure --until "init success" -- ./llm_demo qwen.rkllm'],
  async run({ values, words, io, paint, print, json }) {
    const [program, ...args] = words
    if (program === undefined)
      throw new UsageError('COMMAND is missing', 'rkllm-memory measure -- ./llm_demo qwen.rkllm')
    const model = values.model ?? args.find((word) => MODEL.test(word))
    if (model === undefined)
      throw new UsageError('--model is missing', 'no word of the command ends in .rkllm or .rknn')
    const start = {
      command: program,
      args,
      model,
      ...(values.until === undefined ? {} : { until: values.until }),
      ...(values.context === undefined ? {} : { contextLength: values.context }),
      ...(values.runtime === undefined ? {} : { runtime: values.runtime }),
      ...(values.calibration === undefined
        ? {}
        : { calibration: values.calibration === 'none' ? /** @type {const} */ (false) : values.calibration }),
    }
    let stop = (/** @type {unknown} */ _reason) => {}
    const interrupt = () => stop(memoryError('ERR_DEVICE_IO', 'the measurement was interrupted'))
    // The command must not outlive this one.
    for (const name of ENDS) process.once(name, interrupt)
    /** @type {import('../types/models.js').MeasuredModel} */
    let found
    try {
      const { measure } = require('../models/measure.js')
      found = await measure(start, {
        onStart: (end) => void (stop = end),
        // Progress that the command draws over itself becomes a line each.
        onOutput: (text) => void io.stderr.write(plain(text.replace(/\r\n?/g, '\n'))),
      })
    } finally {
      for (const name of ENDS) process.off(name, interrupt)
    }
    if (values.json) return json(found)
    const versions = [found.runtime && `runtime ${found.runtime}`, found.driver && `driver ${found.driver}`]
    print(`${paint.bold(basename(model))}${versions.filter(Boolean).map((each) => `, ${each}`).join('')}\n`)
    const rows = columns(FIGURES.map(([key, what]) => [`  ${what}`, bytes(found[key])]))
    rows.forEach((row, at) => print(at === 0 ? paint.bold(row) : row))
    if (found.calibration !== null) print(`\n  stored in ${found.calibration}`)
  },
}

/**
 * @param {string} name
 * @param {string} word
 */
function parseUntil(name, word) {
  const [, count, unit] = /^(\d+(?:\.\d+)?)(ms|s)$/.exec(word) ?? []
  if (count !== undefined) return Number(count) * (unit === 's' ? 1000 : 1)
  try {
    return new RegExp(word)
  } catch (error) {
    throw new UsageError(`${name} is ${JSON.stringify(word)}: ${/** @type {Error} */ (error).message}`)
  }
}

module.exports = command
