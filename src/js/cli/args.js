'use strict'

// Parses the arguments of a command. A wrong argument is a UsageError that suggests the nearest right one.

const { parseArgs } = require('node:util')
const { nearest } = require('../core/options.js')

/** A wrong argument: exit status 2. */
class UsageError extends Error {
  /**
   * @param {string} message
   * @param {string} [hint]
   */
  constructor(message, hint) {
    super(message)
    this.hint = hint
  }
}

/** @type {Record<string, Option>} */
const COMMON = {
  help: { type: 'boolean', short: 'h', text: 'this text' },
}

/**
 * @typedef {object} Option
 * @property {'boolean' | 'string'} type
 * @property {string} [short]
 * @property {string} [value] the placeholder in help
 * @property {string} text the description in help
 * @property {(name: string, word: string) => unknown} [parse]
 * @property {boolean} [multiple] whether it may be repeated: its value is a list
 */

/**
 * @typedef {object} Io a process, or an object like one
 * @property {Stream} stdout
 * @property {Stream} stderr
 * @property {any} [stdin]
 * @property {Record<string, string | undefined>} env
 *
 * @typedef {{ write(text: string): unknown, isTTY?: boolean, columns?: number, rows?: number }} Stream
 *
 * @typedef {object} Context what `run` passes to a command
 * @property {Record<string, any>} values the values of the options
 * @property {string[]} words the positional words
 * @property {Io} io
 * @property {import('./style.js').Paint} paint
 * @property {number} width
 * @property {(text: string) => void} print
 * @property {(value: unknown) => void} json
 * @property {typeof import('./run.js').STATUS} STATUS
 *
 * @typedef {object} Command
 * @property {string} name
 * @property {string} summary
 * @property {string} words
 * @property {Record<string, Option>} options
 * @property {string[]} [notes]
 * @property {string[]} [examples] whole command lines, which a test runs
 * @property {(context: Context) => number | void | Promise<number | void>} run
 */

/**
 * Parses arguments.
 *
 * @param {string[]} args
 * @param {Record<string, Option>} options
 * @returns {{ values: Record<string, any>, words: string[] }} the options' values, and the positional words
 */
function parse(args, options) {
  const all = { ...options, ...COMMON }
  /** @type {import('node:util').ParseArgsConfig['options']} */
  const plain = Object.fromEntries(
    Object.entries(all).map(([name, { type, short }]) => [name, short === undefined ? { type } : { type, short }]),
  )
  const { tokens } = parseArgs({ args, options: plain, strict: false, allowPositionals: true, tokens: true })
  /** @type {Record<string, any>} */
  const values = {}
  /** @type {string[]} */
  const words = []
  for (const token of tokens) {
    if (token.kind === 'positional') words.push(token.value)
    if (token.kind !== 'option') continue
    const { name, rawName, value } = token
    if (!Object.hasOwn(all, name))
      throw unknown(
        `there is no option ${rawName}`,
        rawName,
        Object.keys(all).map((known) => `--${known}`),
      )
    if (all[name].type === 'boolean') {
      if (value !== undefined) throw new UsageError(`${rawName} takes no value`)
      values[name] = true
    } else {
      // A word that begins with a dash is the next option, not a value.
      if (value === undefined || (!token.inlineValue && value.startsWith('-') && value !== '-')) {
        throw new UsageError(`${rawName} needs a value: ${rawName} ${all[name].value}`)
      }
      const parsed = all[name].parse?.(rawName, value) ?? value
      values[name] = all[name].multiple ? [...(values[name] ?? []), parsed] : parsed
    }
  }
  return { values, words }
}

/**
 * @param {string} message
 * @param {string} word
 * @param {string[]} known
 */
function unknown(message, word, known) {
  const meant = nearest(word, known)
  return new UsageError(message, meant === undefined ? undefined : `did you mean ${meant}?`)
}

const UNITS = { '': 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 }

/**
 * Parses bytes: "512MiB", "1.5 GiB", "4096".
 *
 * @param {string} name
 * @param {string} word
 */
function parseSize(name, word) {
  const [, digits, unit] = /^(\d+(?:\.\d+)?) ?([a-z]*)$/i.exec(word) ?? []
  const factor = Object.entries(UNITS).find(([known]) => known.toLowerCase() === unit?.toLowerCase())?.[1]
  const exact = Number(digits) * (factor ?? NaN)
  // Of "1.6GiB" the fraction of a byte is dropped; there is no half of a byte.
  const bytes = factor === 1 ? exact : Math.floor(exact)
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes
  const meant = /^[kmgt]b?$/i.test(unit ?? '')
    ? `did you mean ${digits}${unit[0].toUpperCase()}iB?`
    : 'sizes are whole bytes: 512MiB, 2GiB, 4096'
  throw new UsageError(`${name} is ${JSON.stringify(word)}; it must be a size`, meant)
}

/** @type {(min: number, max?: number) => (name: string, word: string) => number} */
const wholeNumber =
  (min, max = Number.MAX_SAFE_INTEGER) =>
  (name, word) => {
    const number = Number(word)
    if (/^\d+$/.test(word) && number >= min && number <= max) return number
    throw new UsageError(`${name} is ${JSON.stringify(word)}; it must be a whole number of at least ${min}`)
  }

/** @type {(min: number, max: number) => (name: string, word: string) => number} */
const seconds = (min, max) => (name, word) => {
  const number = Number(word)
  if (/^\d*\.?\d+$/.test(word) && number >= min && number <= max) return number
  throw new UsageError(`${name} is ${JSON.stringify(word)}; it must be ${min} to ${max} seconds`)
}

/** @type {(...choices: string[]) => (name: string, word: string) => string} */
const oneOf =
  (...choices) =>
  (name, word) => {
    if (choices.includes(word)) return word
    throw unknown(`${name} is ${JSON.stringify(word)}; it must be one of ${choices.join(', ')}`, word, choices)
  }

/**
 * Checks the number of positional words.
 *
 * @param {string[]} words
 * @param {string[]} names
 */
function expectWords(words, names, atLeast = names.length) {
  if (words.length < atLeast) throw new UsageError(`${names[words.length]} is missing`)
  if (words.length > names.length)
    throw new UsageError(`there is one word too many: ${JSON.stringify(words[names.length])}`)
  return words
}

module.exports = { COMMON, UsageError, expectWords, oneOf, parse, parseSize, seconds, unknown, wholeNumber }
