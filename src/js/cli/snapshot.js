'use strict'

// `rkllm-memory snapshot PID`: what a running process's managers hold, buffer by buffer, as JSON.

const { writeFileSync } = require('node:fs')
const { UsageError, expectWords, whole } = require('./args.js')
const { askProcess } = require('./attach.js')
const { jsonText } = require('./style.js')

const MANAGER = {
  type: 'string',
  value: 'N',
  text: 'which of its managers: the number behind its name in `top`, or 0',
  parse: whole(0),
}

/** The answer of the one manager of `pid` that is meant. */
async function askOne(word, index, want) {
  const answers = await askProcess(whole(1)('PID', word), want)
  const numbers = answers.map(({ about }) => about.manager)
  if (index === undefined && answers.length > 1) {
    throw new UsageError(
      `process ${word} has ${answers.length} managers`,
      `say which: ${numbers.map((number) => `--manager ${number}`).join(' or ')}`,
    )
  }
  const chosen = index === undefined ? answers[0] : answers.find(({ about }) => about.manager === index)
  if (chosen === undefined)
    throw new UsageError(`process ${word} has no manager ${index}`, `it has ${numbers.join(', ')}`)
  return chosen
}

module.exports = {
  MANAGER,
  askOne,
  name: 'snapshot',
  summary: 'what a running process holds, buffer by buffer, as JSON',
  words: 'PID',
  options: {
    out: { type: 'string', short: 'o', value: 'FILE', text: 'write it there instead of to standard output' },
    manager: MANAGER,
    json: { type: 'boolean', text: 'it always is JSON' },
  },
  notes: ['The process must have made its manager with { inspect: true }, and be yours.'],
  async run({ values, words, io, json }) {
    const [pid] = expectWords(words, ['PID'])
    const { snapshot } = await askOne(pid, values.manager, ['snapshot'])
    if (values.out === undefined) return json(snapshot)
    writeFileSync(values.out, jsonText(snapshot))
    io.stderr.write(`wrote ${values.out}\n`)
  },
}
