'use strict'

// Modules that load at their first use: most programs use few chapters of the package.
//
// A program may need one when no file can be opened: to explain the error of a process without descriptors, for
// example. The native part holds a descriptor in reserve, and lends it for that.

const native = require('./binding.js')
const { MemoryError, memoryError } = require('./errors.js')
const { systemError } = require('./system-errors.js')

/**
 * Returns a function that returns what `load` returned at the first call.
 *
 * @template T
 * @param {() => T} load requires a module
 * @returns {() => T}
 */
function onDemand(load) {
  /** @type {{ module: T } | undefined} */
  let loaded
  return () => (loaded ??= { module: loadNow(load) }).module
}

/**
 * @template T
 * @param {() => T} load
 */
function loadNow(load) {
  try {
    return load()
  } catch {
    // Each runtime says in its own words that it is out of descriptors, so that no error is told from that one.
  }
  const lent = native.lendReserveDescriptor()
  try {
    return load()
  } catch (error) {
    throw loadError(error)
  } finally {
    if (lent) native.refillReserveDescriptor()
  }
}

/**
 * The error of a module that cannot be loaded, as a MemoryError. A stack overflow is the caller's.
 *
 * @param {any} error
 */
function loadError(error) {
  if (error instanceof MemoryError || error instanceof RangeError) return error
  const what = 'a part of @rkllmjs/memory cannot be loaded'
  const hint = 'install the package again'
  return systemError(what, error) ?? memoryError('ERR_UNSUPPORTED', `${what}: ${error}`, { hint }, { cause: error })
}

module.exports = { onDemand }
