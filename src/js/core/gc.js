'use strict'

// Forces a garbage collection when memory is short: the engine does not see how much memory a few small buffers hold.

/** @type {(() => void) | undefined} */
let collect

/**
 * Collects garbage where the engine allows it. The memory of dropped buffers is freed some turns of the event loop
 * later.
 */
function collectGarbage() {
  collect ??= collector()
  collect()
}

/** @returns {() => void} */
function collector() {
  const { gc: exposed, Bun } = /** @type {{ gc?: () => void, Bun?: any }} */ (globalThis)
  if (typeof exposed === 'function') return exposed
  if (process.versions.bun !== undefined) return () => Bun.gc(true)
  try {
    // Modules of Node that take a millisecond to load, which most programs never need.
    const { setFlagsFromString } = require('node:v8')
    const { runInNewContext } = require('node:vm')
    // A context made while the flag is set has the function. The user's context never gets it.
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc')
    setFlagsFromString('--no-expose-gc')
    return typeof gc === 'function' ? gc : () => {}
  } catch {
    return () => {}
  }
}

module.exports = { collectGarbage }
