'use strict'

// Runs a command: parses its options, and reports errors as a message and an exit status.
//
// A command is { name, summary, words, options, notes, examples, run }. The same data makes `--help` and the parser.

const { version } = require('../../../package.json')
const { COMMON, UsageError, parse, unknown } = require('./args.js')
const { AttachError } = require('./attach.js')
const { columns, jsonText, pad, painter, styled, wantsColor, widthOf, wrap } = require('./style.js')

const MODELS = ['plan', 'estimate', 'measure']
const NAMES = ['doctor', 'top', 'snapshot', 'report', ...MODELS, 'explain', 'replay', 'arena', 'bench', 'selftest']
const STATUS = { ok: 0, finding: 1, usage: 2, attach: 3, broken: 4 }
const STATUS_TEXT = [
  ['0', 'success'],
  ['1', 'a finding: a failed check, a model that does not fit, no known error in the log'],
  ['2', 'usage error'],
  ['3', 'no manager to attach to'],
  ['4', 'failure: a file, a device, memory'],
]

/** @type {(name: string) => Command} */
const load = (name) => require(`./${name}.js`)

/**
 * @typedef {import('./args.js').Io} Io
 * @typedef {import('./args.js').Command} Command
 * @typedef {Omit<import('./args.js').Context, 'values' | 'words'>} BaseContext
 */

/**
 * Runs the command line.
 *
 * @param {string[]} argv
 * @param {Io} io
 * @returns {Promise<number>} the exit status
 */
async function run(argv, io) {
  const paint = painter(wantsColor(io.stdout, io.env))
  /** @type {BaseContext} */
  const context = {
    io,
    paint,
    width: widthOf(io.stdout),
    print: (text) => void io.stdout.write(`${styled(text)}\n`),
    json: (value) => void io.stdout.write(jsonText(value)),
    STATUS,
  }
  const [first, ...rest] = argv
  try {
    if (first === undefined || first === 'help' || first === '--help' || first === '-h') return overview(context, rest)
    if (first === '--version' || first === '-V') return (context.print(version), STATUS.ok)
    const command = find(first)
    const { values, words } = parse(rest, command.options)
    if (values.help) return help(context, command)
    return (await command.run({ ...context, values, words })) ?? STATUS.ok
  } catch (error) {
    return explain(error, io, NAMES.includes(first) ? first : undefined)
  }
}

/** @param {string} name */
function find(name) {
  if (NAMES.includes(name)) return load(name)
  const what = name.startsWith('-') ? 'option' : 'command'
  throw unknown(`there is no ${what} ${name}`, name, what === 'option' ? ['--help', '--version'] : NAMES)
}

/**
 * @param {any} error
 * @param {Io} io
 * @param {string} [command]
 */
function explain(error, io, command) {
  const paint = painter(wantsColor(io.stderr, io.env))
  const report = (/** @type {string} */ message, /** @type {string} */ hint = '') => {
    const width = widthOf(io.stderr)
    io.stderr.write(styled(`${paint.red('rkllm-memory:')} ${wrap(message, width - 14, 2).join('\n')}\n`))
    if (hint !== '') io.stderr.write(styled(`  ${wrap(hint, width - 2, 2).join('\n')}\n`))
  }
  if (error instanceof UsageError) {
    report(
      error.message,
      error.hint ?? `rkllm-memory ${command === undefined ? '' : `${command} `}--help lists them all`,
    )
    return STATUS.usage
  }
  if (error instanceof AttachError) {
    report(error.message)
    return STATUS.attach
  }
  // Errors with a code have a message for the user. Any other error is a bug in this package, and needs its stack.
  if (error?.code === undefined) throw error
  report(error.message, error.hint)
  return STATUS.broken
}

/**
 * @param {BaseContext} context
 * @param {string[]} rest
 */
function overview(context, [name]) {
  if (name !== undefined) return help(context, find(name))
  const { paint, print, width } = context
  print(`${paint.bold('rkllm-memory')} ${version}: inspects and plans NPU memory on Rockchip boards\n`)
  print(`${paint.bold('Usage')}  rkllm-memory COMMAND [OPTIONS]\n`)
  for (const each of NAMES.map(load)) print(entry(paint.cyan(each.name), 10, each.summary, width))
  print(`\n${entry('--version', 10, 'the version of this package', width)}`)
  print(entry('--help', 10, 'this text; COMMAND --help for each command', width))
  print(`\n${paint.bold('Exit status')}`)
  for (const [status, text] of STATUS_TEXT) print(entry(status, 3, text, width))
  print(`\n${wrap('Sizes are bytes, or 512MiB, 2GiB. NO_COLOR and FORCE_COLOR are respected.', width).join('\n')}`)
  return STATUS.ok
}

/**
 * @param {BaseContext} context
 * @param {Command} command
 */
function help({ paint, print, width }, { name, summary, words, options, notes = [], examples = [] }) {
  print(`${paint.bold(`rkllm-memory ${name}`)}: ${wrap(summary, width - 15 - name.length, 2).join('\n')}\n`)
  // Words after "--" are another program's.
  const usage = words.startsWith('-- ') ? [name, '[OPTIONS]', words] : [name, words, '[OPTIONS]']
  print(`${paint.bold('Usage')}  rkllm-memory ${usage.filter(Boolean).join(' ')}\n`)
  const all = Object.entries({ ...options, ...COMMON })
  const forms = columns(
    all.map(([option, { short, value }]) => [`${short ? `-${short}, ` : ''}--${option}${value ? ` ${value}` : ''}`]),
  )
  const widest = Math.max(...forms.map((form) => form.length)) + 2
  all.forEach(([, { text }], at) => print(entry(forms[at], widest, text, width)))
  for (const note of notes) print(`\n${wrap(note, width).join('\n')}`)
  if (examples.length > 0) print(`\n${paint.bold('Examples')}\n${examples.map((line) => `  ${line}`).join('\n')}`)
  return STATUS.ok
}

/** @type {(name: string, column: number, text: string, width: number) => string} */
const entry = (name, column, text, width) =>
  `  ${pad(name, column)} ${wrap(text, width - column - 3).join(`\n${' '.repeat(column + 3)}`)}`

module.exports = { NAMES, STATUS, run }
