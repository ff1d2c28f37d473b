'use strict'

// `rkllm-memory doctor`: checks whether this machine is ready for RKLLM, and suggests fixes.

const { existsSync } = require('node:fs')
const { UsageError, expectWords } = require('./args.js')
const { placeOf } = require('../devices/diagnose.js')
const { examine } = require('../devices/doctor/examine.js')
const { makeReader, save } = require('../devices/doctor/reader.js')
const { pad, styled, wrap } = require('./style.js')

/**
 * @typedef {import('./args.js').Context} Context
 * @typedef {import('../types/doctor.js').Diagnosis} Diagnosis
 * @typedef {import('../types/doctor.js').Finding} Finding
 */

const AREAS = { npu: 'NPU', machine: 'Machine' }
/** @type {Record<Finding['status'], ['ok' | 'warn' | 'FAIL', 'green' | 'yellow' | 'red']>} */
const MARKS = { ok: ['ok', 'green'], warn: ['warn', 'yellow'], fail: ['FAIL', 'red'] }
const [MARK, ID] = [6, 12]

/** @type {import('./args.js').Command} */
const command = {
  name: 'doctor',
  summary: 'finds problems that keep the NPU from working, and suggests fixes',
  words: '',
  options: {
    json: { type: 'boolean', text: 'the findings as JSON' },
    root: {
      type: 'string',
      value: 'DIR',
      text: 'examine the files under DIR instead of this machine: a support bundle',
    },
    models: {
      type: 'string',
      value: 'PATH',
      text: 'where the models lie, a folder or a file: its disk is examined, not all disks',
    },
    save: {
      type: 'string',
      value: 'DIR',
      text: 'also write the files that were read to DIR: a support bundle for --root',
    },
  },
  examples: [
    'rkllm-memory doctor',
    'rkllm-memory doctor --models qwen.rkllm',
    'rkllm-memory doctor --save bundle',
    'rkllm-memory doctor --root bundle --json',
  ],
  notes: [
    'Exit status 1 if any check fails; warnings are not failures.',
    'A support bundle holds the parts of /proc, /sys and /etc that were read: board, kernel, limits, your name and ' +
      'the names of groups. It holds no environment, no other kernel arguments and no memory contents. Check it ' +
      'before you send it.',
  ],
  run({ values, words, io, paint, print, json, width, STATUS }) {
    expectWords(words, [])
    const reader = makeReader(values.root)
    if (values.root !== undefined && !existsSync(values.root)) {
      throw new UsageError(`--root: ${values.root} is not a readable folder`)
    }
    const probe = reader.live ? () => require('../../../index.js').probeDevices() : undefined
    const models = values.models === undefined ? undefined : modelsOf(values.models, values.root)
    const result = examine(reader, probe, models)
    if (values.save !== undefined) save(reader, values.save)
    if (values.json) json(result)
    else show(result, { paint, print, width })
    if (values.save !== undefined) io.stderr.write(styled(`saved to ${values.save}\n`))
    return result.counts.fail > 0 ? STATUS.finding : STATUS.ok
  },
}

/**
 * @param {string} models
 * @param {string} [root]
 */
function modelsOf(models, root) {
  try {
    return placeOf(models, root)
  } catch (error) {
    throw new UsageError(`--models: ${/** @type {Error} */ (error).message}`)
  }
}

/**
 * @param {Diagnosis} result
 * @param {Pick<Context, 'paint' | 'print' | 'width'>} context
 */
function show({ machine, findings, counts }, { paint, print, width }) {
  print(
    paint.bold(
      [machine.board ?? 'This machine', machine.soc, machine.kernel && `Linux ${machine.kernel}`]
        .filter(Boolean)
        .join(' · '),
    ),
  )
  for (const [area, title] of Object.entries(AREAS)) {
    print(`\n${paint.bold(title)}`)
    for (const finding of findings.filter((of) => of.area === area)) print(lines(finding, paint, width).join('\n'))
  }
  /** @type {Array<[number, string, (text: string) => string]>} */
  const totals = [
    [counts.fail, 'failure', paint.red],
    [counts.warn, 'warning', paint.yellow],
    [counts.ok, 'ok', paint.green],
  ]
  const parts = totals.map(([count, what, color]) => {
    const text = what === 'ok' ? `${count} ok` : `${count} ${what}${count === 1 ? '' : 's'}`
    return count > 0 ? color(text) : text
  })
  print(`\n${parts.join(', ')}`)
}

/**
 * @param {Finding} finding
 * @param {Context['paint']} paint
 * @param {number} width
 */
function lines({ id, status, message, remedy }, paint, width) {
  const [word, color] = MARKS[status]
  const indent = ' '.repeat(MARK + ID)
  const room = width - MARK - ID
  const text = wrap(message, room).map((line, at) =>
    at === 0 ? `${pad(paint[color](word), MARK)}${pad(id, ID)}${line}` : indent + line,
  )
  const advice = remedy === null ? [] : adviceLines(remedy, width).map((line) => paint.cyan(line))
  return [...text, ...advice]
}

/**
 * Indents a remedy. One of several lines is meant for copying: it is indented less, so that its lines are not wrapped.
 *
 * @param {string} remedy
 * @param {number} width
 */
function adviceLines(remedy, width) {
  const [first, ...more] = remedy.split('\n')
  const indent = ' '.repeat(more.length > 0 ? MARK : MARK + ID)
  return [...wrap(`→ ${first}`, width - indent.length, 2), ...more.map((line) => `  ${line}`)].map(
    (line) => indent + line,
  )
}

module.exports = command
