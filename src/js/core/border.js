'use strict'

// The border of the public API: each failure behind it reaches the caller as a MemoryError. Two are the caller's own
// and stay as they are: the reason of an abort, and what an accessor or an iterator of an argument throws.
//
// `publicClass` and `publicFunction` wrap what the package exports. V8 inlines the wrapper: a pair of `allocate` and
// `free` costs the same without it. A wrong receiver is found after the fact, by the error that a private name throws.

const { isAsyncFunction } = require('node:util/types')
const { memoryError } = require('./errors.js')
const { formatValue } = require('./options.js')
const { callersError } = require('./system-errors.js')

const { apply, construct, defineProperty, getOwnPropertyDescriptor, ownKeys, setPrototypeOf } = Reflect

/**
 * All wrappers. A stack's frames below the outermost of them are the caller's.
 *
 * @type {Function[]}
 */
const wrappers = []

/** @typedef {(this: any, ...args: any[]) => any} Method */
/** @typedef {(error: unknown, receiver: unknown, args: unknown[]) => unknown} Convert makes the error to throw */

/**
 * @template {Method} F
 * @param {F} method
 * @param {Convert} convert
 * @returns {F}
 */
function wrap(method, convert) {
  /** @type {Method} */
  const wrapper = isAsyncFunction(method)
    ? async function (...args) {
        try {
          return await apply(method, this, args)
        } catch (error) {
          throw convert(error, this, args)
        }
      }
    : function (...args) {
        try {
          return apply(method, this, args)
        } catch (error) {
          throw convert(error, this, args)
        }
      }
  for (const name of ['name', 'length'])
    defineProperty(wrapper, name, /** @type {PropertyDescriptor} */ (getOwnPropertyDescriptor(method, name)))
  wrappers.push(wrapper)
  return /** @type {F} */ (wrapper)
}

/**
 * Wraps a function of the public API.
 *
 * @template {Method} F
 * @param {F} named
 * @returns {F}
 */
const publicFunction = (named) => wrap(named, (error, _receiver, args) => convert(named.name, error, args))

/**
 * Wraps the methods and accessors of a class of the public API, in place.
 *
 * @param {{ name: string, prototype: object }} constructor
 * @param {(value: any) => boolean} hasState whether an object has the private state of the class
 */
function publicClass({ name: className, prototype }, hasState) {
  for (const key of ownKeys(prototype)) {
    const descriptor = /** @type {PropertyDescriptor} */ (getOwnPropertyDescriptor(prototype, key))
    if (key === 'constructor') continue
    const name = typeof key === 'symbol' ? `[${key.description}]` : key
    /** @type {Convert} */
    const convertFor = (error, receiver, args) =>
      typeof receiver === 'object' && receiver !== null && hasState(receiver)
        ? convert(name, error, args)
        : receiverError(className, name, receiver, error)
    for (const part of /** @type {const} */ (['value', 'get'])) {
      if (typeof descriptor[part] === 'function') descriptor[part] = wrap(descriptor[part], convertFor)
    }
    defineProperty(prototype, key, descriptor)
  }
}

/**
 * Returns the constructor to export for a class: called without `new` it throws a MemoryError. It has the prototype of
 * the class, so that instances and subclasses are those of the class. A Proxy would do it too, but slows `new` and
 * `instanceof` by some 100 ns; this function costs `new` 12 ns and a subclass's `new` half a microsecond.
 *
 * @template {new (...args: any[]) => object} C
 * @param {C} named
 * @param {string} [hint] how instances are made, if not with `new`
 * @returns {C}
 */
function publicConstructor(named, hint = `call it with new: new ${named.name}(...)`) {
  const { name, prototype } = named
  /** @type {(...args: unknown[]) => object} */
  function constructor(...args) {
    if (new.target === undefined) {
      throw memoryError('ERR_INVALID_ARG_TYPE', `${name} is a class and was called as a function`, { hint })
    }
    return construct(named, args, new.target === constructor ? named : new.target)
  }
  // Static members are inherited.
  setPrototypeOf(constructor, named)
  for (const property of ['name', 'length'])
    defineProperty(constructor, property, /** @type {PropertyDescriptor} */ (getOwnPropertyDescriptor(named, property)))
  // Libraries tell classes from functions by their text.
  defineProperty(constructor, 'toString', { value: () => String(named), configurable: true, writable: true })
  defineProperty(constructor, 'prototype', { value: prototype, writable: false })
  defineProperty(prototype, 'constructor', { value: constructor, configurable: true, writable: true })
  return /** @type {C} */ (/** @type {unknown} */ (constructor))
}

/**
 * @param {string} className
 * @param {string} name
 * @param {unknown} receiver
 * @param {unknown} cause
 */
function receiverError(className, name, receiver, cause) {
  const hint =
    receiver == null
      ? `call it on a ${className}, or bind it: const call = object.${name}.bind(object)`
      : `bind the methods of a proxy to its target: the private state of a ${className} is not behind the proxy`
  const shown = formatValue(receiver)
  const message = `${className}: ${name} was called on ${shown}, which is no ${className}`
  return memoryError('ERR_INVALID_ARG_TYPE', message, { hint }, { cause })
}

/**
 * Whether `error` is the reason with which the caller aborted: it is thrown as it is.
 *
 * @param {unknown} options
 * @param {unknown} error
 */
function isAbortReason(options, error) {
  try {
    const signal = /** @type {{ signal?: AbortSignal } | undefined} */ (options)?.signal
    return signal?.aborted === true && signal.reason === error
  } catch {
    return false
  }
}

/** @type {(name: string, error: unknown, args: unknown[]) => unknown} */
const convert = (name, error, args) =>
  args.some((of) => isAbortReason(of, error)) ? error : callersError(name, error)

module.exports = { publicClass, publicConstructor, publicFunction, wrappers }
