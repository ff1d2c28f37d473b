'use strict'

// The words after a command: options, sizes, numbers. What is wrong with them is a UsageError that names the nearest right one.

const { parseArgs } = require('node:util')
const { nearest } = require('../core/options.js')

/** The user's words are wrong: exit status 2. */
class UsageError extends Error {
  constructor(message, hint) {
    super(message)
    this.hint = hint
  }
}

const COMMON = {
  help: { type: 'boolean', short: 'h', text: 'this text' },
}

/**
 * @param {string[]} args
 * @param {Record<string, {type: 'boolean' | 'string', short?: string, value?: string, text: string, parse?: (name: string, word: string) => unknown}>} options
 * @returns {{ values: Record<string, any>, words: string[] }} values that were parsed, and the words that are no options
 */
function parse(args, options) {
  const all = { ...options, ...COMMON }
  const plain = Object.fromEntries(
    Object.entries(all).map(([name, { type, short }]) => [name, short === undefined ? { type } : { type, short }]),
  )
  const { tokens } = parseArgs({ args, options: plain, strict: false, allowPositionals: true, tokens: true })
  const [values, words] = [{}, []]
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
      // A word that begins with a dash is the next option, not this one's value.
      if (value === undefined || (!token.inlineValue && value.startsWith('-') && value !== '-')) {
        throw new UsageError(`${rawName} needs a value: ${rawName} ${all[name].value}`)
      }
      values[name] = all[name].parse?.(rawName, value) ?? value
    }
  }
  return { values, words }
}

function unknown(message, word, known) {
  const meant = nearest(word, known)
  return new UsageError(message, meant === undefined ? undefined : `did you mean ${meant}?`)
}

const UNITS = { '': 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 }

/** Bytes: "512MiB", "1.5 GiB", "4096". */
function size(name, word) {
  const [, digits, unit] = /^(\d+(?:\.\d+)?) ?([a-z]*)$/i.exec(word) ?? []
  const factor = Object.entries(UNITS).find(([known]) => known.toLowerCase() === unit?.toLowerCase())?.[1]
  const bytes = Number(digits) * factor
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes
  const meant = /^[kmgt]b?$/i.test(unit ?? '')
    ? `did you mean ${digits}${unit[0].toUpperCase()}iB?`
    : 'sizes are whole bytes: 512MiB, 2GiB, 4096'
  throw new UsageError(`${name} is no size: ${JSON.stringify(word)}`, meant)
}

const whole =
  (min, max = Number.MAX_SAFE_INTEGER) =>
  (name, word) => {
    const number = Number(word)
    if (/^\d+$/.test(word) && number >= min && number <= max) return number
    throw new UsageError(`${name} is ${JSON.stringify(word)}; it must be a whole number of at least ${min}`)
  }

const oneOf =
  (...choices) =>
  (name, word) => {
    if (choices.includes(word)) return word
    throw unknown(`${name} is ${JSON.stringify(word)}; it must be one of ${choices.join(', ')}`, word, choices)
  }

/** The words after a command, as many as it takes. */
function expectWords(words, names, atLeast = names.length) {
  if (words.length < atLeast) throw new UsageError(`${names[words.length]} is missing`)
  if (words.length > names.length)
    throw new UsageError(`there is one word too many: ${JSON.stringify(words[names.length])}`)
  return words
}

module.exports = { COMMON, UsageError, expectWords, oneOf, parse, size, unknown, whole }
