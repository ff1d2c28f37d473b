'use strict'

/**
 * Gives a class its `Symbol.dispose` method. Older runtimes have no such symbol.
 *
 * @template {object} T
 * @param {(new (...args: any[]) => T) & { prototype: T }} constructor
 * @param {(this: T) => void} dispose
 */
function defineDispose(constructor, dispose) {
  if (/** @type {symbol | undefined} */ (Symbol.dispose) === undefined) return
  Object.defineProperty(constructor.prototype, Symbol.dispose, { value: dispose, configurable: true, writable: true })
}

module.exports = { defineDispose }
