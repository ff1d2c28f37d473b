'use strict'

// `rkllm-memory snapshot PID`: writes a snapshot of a running process's manager as JSON.

const { writeFileSync } = require('node:fs')
const { UsageError, expectWords, wholeNumber } = require('./args.js')
const { askProcess } = require('./attach.js')
const { jsonText, styled } = require('./style.js')

/** @type {import('./args.js').Option} */
const MANAGER = {
  type: 'string',
  value: 'N',
  text: 'the manager: the number behind its name in `top`, or 0',
  parse: wholeNumber(0),
}

/**
 * Requests figures from the one manager that the arguments name.
 *
 * @param {string} word
 * @param {number | undefined} index
 * @param {string[]} want
 */
async function askOne(word, index, want) {
  const answers = await askProcess(wholeNumber(1)('PID', word), want)
  const numbers = answers.map(({ about }) => about.manager)
  if (index === undefined && answers.length > 1) {
    throw new UsageError(
      `process ${word} has ${answers.length} managers`,
      `name one: ${numbers.map((number) => `--manager ${number}`).join(' or ')}`,
    )
  }
  const chosen = index === undefined ? answers[0] : answers.find(({ about }) => about.manager === index)
  if (chosen === undefined)
    throw new UsageError(`process ${word} has no manager ${index}`, `it has ${numbers.join(', ')}`)
  return chosen
}

/** @type {import('./args.js').Command} */
const command = {
  name: 'snapshot',
  summary: 'writes all buffers and pools of a running process as JSON',
  words: 'PID',
  options: {
    out: { type: 'string', short: 'o', value: 'FILE', text: 'write to FILE instead of standard output' },
    manager: MANAGER,
    json: { type: 'boolean', text: 'has no effect: the output is always JSON' },
  },
  notes: ['The process must be yours and create its manager with { inspect: true }.'],
  async run({ values, words, io, json }) {
    const [pid] = expectWords(words, ['PID'])
    const { snapshot } = await askOne(pid, values.manager, ['snapshot'])
    if (values.out === undefined) return json(snapshot)
    writeFileSync(values.out, jsonText(snapshot))
    io.stderr.write(styled(`wrote ${values.out}\n`))
  },
}

module.exports = { ...command, MANAGER, askOne }
