'use strict'

// `rkllm-memory explain LINE`: explains a log line, and suggests a fix.

const { readFileSync } = require('node:fs')
const { UsageError, expectWords } = require('./args.js')
const { clip, wrap } = require('./style.js')

/** The longest log that is read. */
const MAX_LOG = 64 << 20

/** @type {import('./args.js').Command} */
const command = {
  name: 'explain',
  summary: 'explains a log line of the RKNN or RKLLM runtime or the kernel',
  words: '["LOG LINE"]',
  options: { json: { type: 'boolean', text: 'as JSON, one entry for each known cause' } },
  notes: [
    'Without a line it reads standard input: dmesg | rkllm-memory explain. Exit status 1 if no line is a known error.',
  ],
  run({ values, words, io, paint, print, json, width, STATUS }) {
    const [word] = expectWords(words, ['LOG LINE'], 0)
    const { explainError } = require('../../../index.js')
    const lines = (word ?? input(io))
      .split('\n')
      .map((line) => line.trim())
      .filter(Boolean)
    const known = explained(lines, explainError)
    if (values.json) json(known)
    else if (known.length === 0) print('No match in the table of known errors.')
    else known.forEach((each, at) => show(each, at, { paint, print, width }))
    return known.length > 0 ? STATUS.ok : STATUS.finding
  },
}

/**
 * @typedef {NonNullable<ReturnType<typeof import('../types/explain.js').explainError>>} Explanation
 * @typedef {Explanation & { line: string, count: number }} Explained
 */

/**
 * Explains the lines. A cause that occurs again is counted.
 *
 * @param {string[]} lines
 * @param {(line: string) => Explanation | null} explainError
 */
function explained(lines, explainError) {
  /** @type {Map<string, Explained>} */
  const causes = new Map()
  for (const line of lines) {
    const found = explainError(line)
    if (found === null) continue
    const before = causes.get(found.cause)
    if (before === undefined) causes.set(found.cause, { line, count: 1, ...found })
    else before.count++
  }
  return [...causes.values()]
}

/**
 * @param {Explained} explained
 * @param {number} at
 * @param {Pick<import('./args.js').Context, 'paint' | 'print' | 'width'>} context
 */
function show({ line, count, cause, remedy, code }, at, { paint, print, width }) {
  if (at > 0) print('')
  print(paint.dim(clip(line, width - 8)) + (count > 1 ? `  × ${count}` : ''))
  print(wrap(`  ${cause}`, width, 2).join('\n') + (code === null ? '' : paint.dim(` (${code})`)))
  print(
    wrap(`→ ${remedy}`, width - 2, 2)
      .map((text) => `  ${paint.cyan(text)}`)
      .join('\n'),
  )
}

/** @param {import('./args.js').Io} io */
function input(io) {
  if (io.stdin?.isTTY) throw new UsageError('LOG LINE is missing', 'quote the line, or pipe a log into this command')
  const text = readFileSync(io.stdin?.fd ?? 0, 'utf8')
  if (text.length > MAX_LOG) throw new UsageError('the log is too long', 'grep for rknn, rkllm or rknpu first')
  return text
}

module.exports = command
