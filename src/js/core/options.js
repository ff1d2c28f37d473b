'use strict'

// Validates arguments before a native call: types, whole numbers, and the names of options. The chapters define the
// schemas of their options. The native part checks the ranges that depend on the device.

const { memoryError } = require('./errors.js')
const { callersError } = require('./system-errors.js')

/**
 * @template T
 * @typedef {(name: string, value: unknown) => T} Validator returns the value to use, or throws
 */
/** @typedef {Record<string, Validator<any>>} Schema */
/**
 * @template {Schema} S
 * @typedef {{ [Name in keyof S]?: ReturnType<S[Name]> }} Checked
 */

/**
 * @param {string} message
 * @param {string} [hint]
 */
const invalid = (message, hint) => memoryError('ERR_INVALID_ARG_TYPE', message, hint ? { hint } : undefined)

/**
 * @param {string} message
 * @param {Partial<import('../types/errors.js').MemoryError>} [figures]
 */
const outOfRange = (message, figures) => memoryError('ERR_OUT_OF_RANGE', message, figures)

/**
 * Formats `value` for a message. Reads no property of an object, which may be a proxy.
 *
 * @param {unknown} value
 */
function formatValue(value) {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value)
    case 'bigint':
      return `${value}n`
    case 'object':
      return value === null ? 'null' : 'an object'
    case 'function':
    case 'symbol':
      return `a ${typeof value}`
    default:
      return String(value)
  }
}

/**
 * Checks for a whole number from `min` to `max`, and returns it.
 *
 * @param {string} name
 * @param {unknown} value
 * @param {number} min
 */
function integer(name, value, min, max = Number.MAX_SAFE_INTEGER) {
  if (typeof value !== 'number') {
    throw invalid(
      `${name} must be a number, not ${formatValue(value)}`,
      typeof value === 'bigint' ? 'convert it with Number()' : undefined,
    )
  }
  if (!Number.isInteger(value)) throw outOfRange(`${name} is ${value}; it must be a whole number`)
  if (value < min || value > max) {
    const bound = max === Number.MAX_SAFE_INTEGER ? `at least ${min} and below 2^53` : `from ${min} to ${max}`
    throw outOfRange(`${name} is ${value}; it must be ${bound}`, value >= 0 ? { requested: value } : undefined)
  }
  return value
}

/** Makes validators of options. */
const kinds = {
  /** @type {Validator<boolean>} */
  boolean(name, value) {
    if (typeof value !== 'boolean') throw invalid(`${name} must be true or false, not ${formatValue(value)}`)
    return value
  },
  /** @type {Validator<string>} */
  string(name, value) {
    if (typeof value !== 'string') throw invalid(`${name} must be a string, not ${formatValue(value)}`)
    return value
  },
  /** @type {Validator<string>} */
  nonEmptyString(name, value) {
    if (kinds.string(name, value) === '') throw outOfRange(`${name} is ""; it must not be empty`)
    return /** @type {string} */ (value)
  },
  /** @type {Validator<string | undefined>} null stands for no tag, as in the results. */
  tag: (name, value) => (value === null ? undefined : kinds.string(name, value)),
  /** @type {(min: number, max?: number) => Validator<number>} */
  integer: (min, max) => (name, value) => integer(name, value, min, max),
  /** @type {(max: number) => Validator<number>} */
  milliseconds: (max) => (name, value) => {
    if (typeof value !== 'number') throw invalid(`${name} must be a number, not ${formatValue(value)}`)
    if (!(value >= 0 && value <= max)) throw outOfRange(`${name} is ${value}; it must be from 0 to ${max} ms`)
    return value
  },
  /** @type {Validator<number>} A share that is less than all. */
  share(name, value) {
    if (typeof value !== 'number') throw invalid(`${name} must be a number, not ${formatValue(value)}`)
    if (!(value >= 0 && value < 1)) throw outOfRange(`${name} is ${value}; it must be from 0 to less than 1`)
    return value
  },
  /** @type {<T extends string | boolean>(...allowed: T[]) => Validator<T>} */
  oneOf:
    (...allowed) =>
    (name, value) => {
      const found = allowed.find((choice) => choice === value)
      if (found !== undefined) return found
      const list = allowed.map(formatValue).join(', ')
      const known = allowed.some((choice) => typeof choice === typeof value)
      const message = `${name} is ${formatValue(value)}; it must be one of ${list}`
      throw known ? outOfRange(message) : invalid(message)
    },
  /** @type {Validator<AbortSignal>} */
  signal(name, value) {
    // Not `instanceof`: a test environment, as jsdom, has an AbortSignal of its own.
    const signal = /** @type {AbortSignal} */ (Object(value))
    const isSignal = typeof signal.aborted === 'boolean' && typeof signal.addEventListener === 'function'
    if (!isSignal) throw invalid(`${name} must be an AbortSignal, not ${formatValue(value)}`)
    return signal
  },
  /** @type {<S extends Schema>(schema: S) => Validator<Checked<S>>} */
  nested: (schema) => (name, value) => check(name, value, schema),
}

/**
 * Checks options against a schema. Reads each option once; options that are left out or undefined are absent from the
 * result.
 *
 * @template {Schema} S
 * @param {string} what names the function in messages
 * @param {unknown} options
 * @param {S} schema
 * @returns {Checked<S>}
 */
function check(what, options, schema) {
  if (options === undefined) return {}
  // A proxy or an accessor may throw anything at each look at it.
  const isObject = typeof options === 'object' && options !== null && !read(what, () => Array.isArray(options))
  if (!isObject) throw invalid(`the options of ${what} must be an object, not ${formatValue(options)}`)
  for (const name of read(what, () => Object.keys(options))) {
    if (!Object.hasOwn(schema, name)) throw unknownOption(what, name, Object.keys(schema))
  }
  /** @type {Record<string, unknown>} */
  const checked = {}
  for (const [name, kind] of Object.entries(schema)) {
    const value = read(`${what}: ${name}`, () => /** @type {Record<string, unknown>} */ (options)[name])
    if (value !== undefined) checked[name] = kind(`${what}: ${name}`, value)
  }
  return /** @type {Checked<S>} */ (checked)
}

/**
 * Calls `look`, which runs code of the caller.
 *
 * @template T
 * @param {string} what
 * @param {() => T} look
 * @returns {T}
 */
function read(what, look) {
  try {
    return look()
  } catch (cause) {
    throw callersError(what, cause)
  }
}

/**
 * @param {string} what
 * @param {string} name
 * @param {string[]} known
 */
function unknownOption(what, name, known) {
  const meant = nearest(name, known)
  const hint =
    meant === undefined
      ? `it has ${known.map((candidate) => JSON.stringify(candidate)).join(', ')}`
      : `did you mean ${JSON.stringify(meant)}?`
  return invalid(`${what} has no option ${JSON.stringify(name)}`, hint)
}

/**
 * Returns the name in `known` that `name` probably misspells, if one is near enough.
 *
 * @param {string} name
 * @param {string[]} known
 */
function nearest(name, known) {
  const distances = known.map((candidate) => ({
    candidate,
    distance: editDistance(name.toLowerCase(), candidate.toLowerCase()),
  }))
  const [{ distance, candidate }] = distances.sort((a, b) => a.distance - b.distance)
  // One letter in three, and at least one: "foo" is not near "top". The dashes of an option are no letters.
  const letters = Math.min(name.replace(/^-+/, '').length, candidate.replace(/^-+/, '').length)
  return distance <= Math.max(1, Math.floor(letters / 3)) ? candidate : undefined
}

/**
 * Counts the letters to insert, delete, replace, or swap with a neighbour (optimal string alignment distance).
 *
 * @param {string} a
 * @param {string} b
 */
function editDistance(a, b) {
  /** @type {number[]} */
  let before = []
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1))
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      if (swapped) next[j] = Math.min(next[j], before[j - 2] + 1)
    }
    ;[before, row] = [row, next]
  }
  return row[b.length]
}

module.exports = { check, integer, invalid, kinds, nearest, outOfRange, formatValue }
