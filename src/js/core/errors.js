'use strict'

// `MemoryError`, the class of every error that this package throws.
//
// Two codes follow Node's classes: ERR_INVALID_ARG_TYPE is a TypeError and ERR_OUT_OF_RANGE a RangeError. An object has
// one prototype chain, so they are separate classes, and `instanceof MemoryError` tests a brand.

/**
 * @typedef {import('../types/errors.js').MemoryErrorCode} MemoryErrorCode
 * @typedef {{ code: MemoryErrorCode, cause?: unknown }} Details
 * @typedef {import('../types/errors.js').MemoryError} PublicError
 */

/** @type {WeakSet<object>} */
const branded = new WeakSet()

class MemoryError extends Error {
  /** @param {string} message @param {Details} details */
  constructor(message, details) {
    super(textOf(message))
    applyDetails(this, details)
  }

  /** @param {unknown} value */
  static [Symbol.hasInstance](value) {
    // The class and its exported constructor, but no subclass.
    if (this.prototype !== MemoryError.prototype) return Function.prototype[Symbol.hasInstance].call(this, value)
    return typeof value === 'object' && value !== null && branded.has(value)
  }
}

class MemoryTypeError extends TypeError {
  /** @param {string} message @param {Details} details */
  constructor(message, details) {
    super(textOf(message))
    applyDetails(this, details)
  }
}

class MemoryRangeError extends RangeError {
  /** @param {string} message @param {Details} details */
  constructor(message, details) {
    super(textOf(message))
    applyDetails(this, details)
  }
}

for (const errorClass of [MemoryError, MemoryTypeError, MemoryRangeError]) {
  Object.defineProperty(errorClass, 'name', { value: 'MemoryError', configurable: true })
  Object.defineProperty(errorClass.prototype, 'name', { value: 'MemoryError', configurable: true, writable: true })
}

/**
 * A message of a caller's own error may be anything; a symbol would throw.
 *
 * @param {unknown} message
 */
function textOf(message) {
  if (typeof message === 'object' && message !== null) return 'an object'
  return message === undefined ? '' : String(message)
}

/**
 * @param {Error} error
 * @param {Details} details
 */
function applyDetails(error, details) {
  branded.add(error)
  /** @type {Partial<Details>} */
  let given
  try {
    given = { ...details }
  } catch (reason) {
    given = { code: 'ERR_INVALID_ARG_TYPE', cause: reason }
  }
  const { cause, ...figures } = given
  Object.assign(error, figures)
  if (cause !== undefined) Object.defineProperty(error, 'cause', { value: cause, configurable: true, writable: true })
}

/** @type {Partial<Record<MemoryErrorCode, new (message: string, details: Details) => Error>>} */
const CLASSES = { ERR_INVALID_ARG_TYPE: MemoryTypeError, ERR_OUT_OF_RANGE: MemoryRangeError }

/**
 * Makes the error for `code`, with its figures. The native part calls it too.
 *
 * @param {MemoryErrorCode} code
 * @param {string} message
 * @param {Partial<PublicError>} [figures]
 * @param {{cause?: unknown}} [options]
 * @returns {PublicError}
 */
function memoryError(code, message, figures, options) {
  const errorClass = CLASSES[code] ?? MemoryError
  const error = new errorClass(message, { code, ...figures, ...options })
  Error.captureStackTrace?.(error, memoryError)
  return /** @type {PublicError} */ (error)
}

/** The class with the members that `applyDetails` sets. */
const PublicMemoryError = /** @type {typeof import('../types/errors.js').MemoryError} */ (
  /** @type {unknown} */ (MemoryError)
)

module.exports = { MemoryError: PublicMemoryError, memoryError }
