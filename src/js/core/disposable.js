'use strict'

/**
 * Gives a class its `Symbol.dispose` method. Older runtimes have no such symbol.
 *
 * @param {{ prototype: object }} constructor
 * @param {() => void} dispose
 */
function defineDispose(constructor, dispose) {
  if (/** @type {symbol | undefined} */ (Symbol.dispose) === undefined) return
  Object.defineProperty(constructor.prototype, Symbol.dispose, { value: dispose, configurable: true, writable: true })
}

module.exports = { defineDispose }
