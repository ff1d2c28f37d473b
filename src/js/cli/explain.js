'use strict'

// `rkllm-memory explain LOG`: explains a log, and suggests a fix.

const { readFileSync } = require('node:fs')
const { UsageError, expectWords } = require('./args.js')
const { clip, wrap } = require('./style.js')

/** The longest log that is read. */
const MAX_LOG = 64 << 20

/** @typedef {import('../types/explain.js').Explanation} Explanation */

/** @type {import('./args.js').Command} */
const command = {
  name: 'explain',
  summary: 'explains a log of the RKNN or RKLLM runtime or the kernel',
  words: '["LOG LINE"]',
  options: {
    all: { type: 'boolean', text: 'every finding, ranked, and not the root of the trouble alone' },
    json: { type: 'boolean', text: 'as JSON, one entry for each finding' },
  },
  examples: [
    'dmesg | rkllm-memory explain --all',
    'rkllm-memory explain "failed to allocate handle, ret: -1, errno: 14"',
    'journalctl -b -u llm-server | rkllm-memory explain --json',
  ],
  notes: [
    'Without a line it reads standard input. Give the whole log: the versions, sizes and limits in it decide between ' +
      'causes. Exit status 1 if no line is a known error.',
  ],
  run({ values, words, io, paint, print, json, width, STATUS }) {
    const [word] = expectWords(words, ['LOG LINE'], 0)
    const { explainError } = require('../../../index.js')
    const found = explainError(word ?? input(io), { all: true })
    const shown = values.all ? found : found.slice(0, 1)
    if (values.json) json(shown)
    else if (found.length === 0) print('No match in the table of known errors.')
    else shown.forEach((each, at) => show(each, at, { paint, print, width }))
    const more = found.length - shown.length
    if (!values.json && more > 0) print(paint.dim(`\n${more} more ${more === 1 ? 'finding' : 'findings'}: --all`))
    return found.length > 0 ? STATUS.ok : STATUS.finding
  },
}

/**
 * @param {Explanation} explanation
 * @param {number} at
 * @param {Pick<import('./args.js').Context, 'paint' | 'print' | 'width'>} context
 */
function show({ line, text, count, cause, remedy, code, facts }, at, { paint, print, width }) {
  if (at > 0) print('')
  print(paint.dim(clip(`${line}: ${text}`, width - 8)) + (count > 1 ? `  × ${count}` : ''))
  print(wrap(`  ${cause}`, width, 2).join('\n') + (code === null ? '' : paint.dim(` (${code})`)))
  print(
    wrap(`→ ${remedy}`, width - 2, 2)
      .map((part) => `  ${paint.cyan(part)}`)
      .join('\n'),
  )
  for (const fact of facts) print(paint.dim(clip(`  because of line ${fact.line}: ${fact.text}`, width)))
}

/** @param {import('./args.js').Io} io */
function input(io) {
  if (io.stdin?.isTTY) throw new UsageError('LOG LINE is missing', 'quote the line, or pipe a log into this command')
  const text = readFileSync(io.stdin?.fd ?? 0, 'utf8')
  if (text.length > MAX_LOG) throw new UsageError('the log is too long', 'grep for rknn, rkllm or rknpu first')
  return text
}

module.exports = command
