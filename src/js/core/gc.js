'use strict'

// A collection when memory is needed: the engine does not know how much hangs on a few small objects.

const { setFlagsFromString } = require('node:v8')
const { runInNewContext } = require('node:vm')

let collect

/** Has the engine collect its garbage now, where it can be asked to. What was over dropped buffers goes some turns later. */
function collectGarbage() {
  collect ??= collector()
  collect()
}

function collector() {
  if (typeof globalThis.gc === 'function') return globalThis.gc
  if (process.versions.bun !== undefined) return () => globalThis.Bun.gc(true)
  try {
    // A context that is made while the flag is set has the function; the user's own never sees it.
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc')
    setFlagsFromString('--no-expose-gc')
    return typeof gc === 'function' ? gc : () => {}
  } catch {
    return () => {}
  }
}

module.exports = { collectGarbage }
