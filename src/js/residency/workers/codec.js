'use strict'

// Values between a worker and its parent, which may be different engines: JSON, with bytes beside it.
//
// JSON has no bytes, bigints, undefined, NaN and errors. Each becomes an object with one key that begins with "$"; a
// caller's own key of that kind gets one "$" more.

const { isAnyArrayBuffer, isNativeError } = require('node:util/types')
const { memoryError } = require('../../core/errors.js')
const { formatValue, invalid } = require('../../core/options.js')
const { Buffer } = require('../../core/runtime.js')

/** The deepest nesting: an object that contains itself would nest for ever. */
const MAX_DEPTH = 200

/** @type {Record<string, any>} Views of bytes, by name. */
const VIEWS = {
  ArrayBuffer,
  Uint8Array,
  Int8Array,
  Uint8ClampedArray,
  Uint16Array,
  Int16Array,
  Uint32Array,
  Int32Array,
  Float32Array,
  Float64Array,
  BigUint64Array,
  BigInt64Array,
  DataView,
  Buffer,
}

/**
 * @typedef {object} Extras values that the two sides keep for each other
 * @property {(signal: AbortSignal) => number} [signal] returns the number of a signal
 * @property {(number: number) => AbortSignal} [signalOf]
 */

/**
 * Encodes a value as JSON's value, and adds its bytes to `parts`.
 *
 * @param {unknown} value
 * @param {Uint8Array[]} parts
 * @param {Extras} [extras]
 */
function encode(value, parts, extras = {}, depth = 0) {
  if (depth > MAX_DEPTH) throw invalid(`a value for a worker is nested more than ${MAX_DEPTH} deep, or contains itself`)
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return value
    case 'number':
      if (Object.is(value, -0)) return { $number: '-0' }
      return Number.isFinite(value) ? value : { $number: `${value}` }
    case 'bigint':
      return { $bigint: `${value}` }
    case 'undefined':
      return { $undefined: 1 }
    case 'object':
      return value === null ? null : encodeObject(value, parts, extras, depth)
    default:
      throw invalid(`a value for a worker must be data, not ${formatValue(value)}`)
  }
}

/**
 * @param {object} value
 * @param {Uint8Array[]} parts
 * @param {Extras} extras
 * @param {number} depth
 * @returns {unknown}
 */
function encodeObject(value, parts, extras, depth) {
  if (Array.isArray(value)) return value.map((each) => encode(each, parts, extras, depth + 1))
  if (isAnyArrayBuffer(value) || ArrayBuffer.isView(value)) {
    const view = ArrayBuffer.isView(value) ? value : new Uint8Array(value)
    parts.push(new Uint8Array(view.buffer, view.byteOffset, view.byteLength))
    const name = Buffer.isBuffer(value) ? 'Buffer' : isAnyArrayBuffer(value) ? 'ArrayBuffer' : value.constructor.name
    return { $bytes: [parts.length - 1, Object.hasOwn(VIEWS, name) ? name : 'Uint8Array'] }
  }
  if (isNativeError(value)) return { $error: errorFields(/** @type {any} */ (value)) }
  if (value instanceof Date) return { $date: encode(value.getTime(), parts) }
  if (value instanceof Map) return { $map: encode([...value], parts, extras, depth + 1) }
  if (value instanceof Set) return { $set: encode([...value], parts, extras, depth + 1) }
  const { aborted, addEventListener } = /** @type {Partial<AbortSignal>} */ (value)
  if (typeof aborted === 'boolean' && typeof addEventListener === 'function') {
    if (extras.signal === undefined) throw invalid('an AbortSignal can be an argument, and not a result')
    return { $signal: extras.signal(/** @type {AbortSignal} */ (value)) }
  }
  const entries = Object.entries(value).map(([key, each]) => [
    key.startsWith('$') ? `$${key}` : key,
    encode(each, parts, extras, depth + 1),
  ])
  return Object.fromEntries(entries)
}

/** @param {NodeJS.ErrnoException} error */
function errorFields(error) {
  /** @type {Record<string, unknown>} */
  const fields = {}
  for (const [name, value] of Object.entries(error)) {
    if (['string', 'number'].includes(typeof value)) fields[name] = value
  }
  return { ...fields, name: `${error.name}`, message: `${error.message}`, stack: `${error.stack ?? ''}` }
}

/**
 * @param {any} value
 * @param {Uint8Array[]} parts
 * @param {Extras} [extras]
 * @returns {any}
 */
function decode(value, parts, extras = {}) {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map((each) => decode(each, parts, extras))
  const [key, ...others] = Object.keys(value)
  const isSpecial = others.length === 0 && key?.startsWith('$') && !key.startsWith('$$')
  if (isSpecial) return decodeSpecial(key, value[key], parts, extras)
  const entries = Object.entries(value).map(([name, each]) => [
    name.startsWith('$$') ? name.slice(1) : name,
    decode(each, parts, extras),
  ])
  return Object.fromEntries(entries)
}

/**
 * @param {string} key
 * @param {any} of
 * @param {Uint8Array[]} parts
 * @param {Extras} extras
 */
function decodeSpecial(key, of, parts, extras) {
  switch (key) {
    case '$number':
      return Number(of)
    case '$bigint':
      return BigInt(of)
    case '$undefined':
      return undefined
    case '$bytes':
      return viewOf(parts[of[0]], of[1])
    case '$error':
      return errorOf(of)
    case '$date':
      return new Date(decode(of, parts))
    case '$map':
      return new Map(decode(of, parts, extras))
    case '$set':
      return new Set(decode(of, parts, extras))
    case '$signal':
      return extras.signalOf?.(of)
    default:
      throw memoryError('ERR_UNSUPPORTED', `a message of another version of @rkllmjs/memory: ${key}`)
  }
}

/**
 * @param {Uint8Array} bytes
 * @param {string} name
 */
function viewOf(bytes, name) {
  // A copy: the frame's buffer would stay alive, and its offset may not be aligned.
  const { buffer } = new Uint8Array(bytes)
  if (name === 'ArrayBuffer') return buffer
  return name === 'Buffer' ? Buffer.from(buffer) : new VIEWS[name](buffer)
}

/** @param {Record<string, any>} fields */
function errorOf({ name, message, stack, ...details }) {
  const error = Object.assign(new Error(message), details)
  if (name !== 'Error') Object.defineProperty(error, 'name', { value: name, configurable: true, writable: true })
  Object.defineProperty(error, 'stack', { value: stack, configurable: true, writable: true })
  return error
}

module.exports = { decode, encode }
