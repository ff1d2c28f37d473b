'use strict'

/**
 * Gives a class its `Symbol.dispose` method. Older runtimes have no such symbol.
 *
 * @template {object} T
 * @param {(new (...args: any[]) => T) & { prototype: T }} constructor
 * @param {(this: T) => void} dispose
 */
const defineDispose = (constructor, dispose) => define(constructor, Symbol.dispose, dispose)

/**
 * Gives a class its `Symbol.asyncDispose` method, as `defineDispose`.
 *
 * @template {object} T
 * @param {(new (...args: any[]) => T) & { prototype: T }} constructor
 * @param {(this: T) => Promise<void>} dispose
 */
const defineAsyncDispose = (constructor, dispose) => define(constructor, Symbol.asyncDispose, dispose)

/**
 * @param {{ prototype: object }} constructor
 * @param {symbol | undefined} key
 * @param {Function} value
 */
function define({ prototype }, key, value) {
  if (key !== undefined) Object.defineProperty(prototype, key, { value, configurable: true, writable: true })
}

module.exports = { defineAsyncDispose, defineDispose }
