/** The command line of the benchmarks: options with checks, `--help`, and the lines that name machine and command. */

import { cpus } from 'node:os'

import args from '../src/js/cli/args.js'
import { makeProgress } from '../src/js/cli/progress.js'

const { UsageError, expectWords, parse, wholeNumber } = args

/** Prints an error of the command line, and ends with the status of wrong usage. */
function refuse(error) {
  if (!(error instanceof UsageError)) throw error
  console.error(error.message)
  console.error(error.hint ?? '--help lists the options')
  process.exit(2)
}

/**
 * Returns the values of the options. Ends the process after `--help`, and at an option that is wrong.
 *
 * @param {string} command how the program is started
 * @param {string} summary
 * @param {Record<string, import('../src/js/cli/args.js').Option>} options
 */
export function optionsOf(command, summary, options) {
  try {
    const { values, words } = parse(process.argv.slice(2), options)
    if (values.help) {
      console.log(`${summary}\n\n  ${command} [options]\n`)
      for (const [name, { value = '', text }] of Object.entries(options))
        console.log(`  ${`--${name} ${value}`.padEnd(18)} ${text}`)
      process.exit(0)
    }
    expectWords(words, [])
    return values
  } catch (error) {
    return refuse(error)
  }
}

/**
 * Returns the whole numbers of the command line. Ends the process as `optionsOf` does.
 *
 * @param {string} name of the program's file
 * @param {Record<string, { fallback: number, min?: number, text: string }>} counts by option
 * @param {Record<string, import('../src/js/cli/args.js').Option>} [others]
 */
export function countsOf(name, counts, others = {}) {
  const options = { ...others }
  for (const [option, { fallback, min = 1, text }] of Object.entries(counts)) {
    options[option] = {
      type: 'string', value: 'N', text: `${text}; default ${fallback}`, parse: wholeNumber(min, 1e9),
    }
  }
  const command = `node --expose-gc benchmark/${name}`
  const values = optionsOf(command, `The benchmark ${name}; its head says what it measures.`, options)
  for (const [option, { fallback }] of Object.entries(counts)) values[option] ??= fallback
  return values
}

/**
 * Rounds from `first` to `count` with a bar on a terminal, of which the rounds before 0 warm up. `what` is measured.
 */
export function* roundsOf(first, count, what) {
  const progress = makeProgress(process.stderr, count - first)
  for (let round = first; round < count; round++) {
    progress.update(round - first, what)
    yield round
  }
  progress.clear()
}

/** A parser of numbers that may have a fraction. */
export const number = (min, max, unit) => (name, word) => {
  const value = Number(word)
  if (/^\d*\.?\d+$/.test(word) && value >= min && value <= max) return value
  throw new UsageError(`${name} is ${JSON.stringify(word)}; it must be ${min} to ${max} ${unit}`)
}

/** The processor and the runtime. */
export const machine = () => `Node ${process.version}, ${process.arch}, ${cpus().length} × ${cpus()[0]?.model.trim()}`

/** The command as it was given. */
export const given = (command) => [command, ...process.argv.slice(2)].join(' ')
