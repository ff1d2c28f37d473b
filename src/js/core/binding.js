'use strict'

// Loads the native part and sets it up for this environment.

const { readFileSync } = require('node:fs')
const { version } = require('../../../package.json')
const { memoryError } = require('./errors.js')

/** @type {typeof import('../native.js')} */
let native
try {
  native = findLoadedCopy() ?? require('../native.js')
} catch (cause) {
  const here = `${process.platform}-${process.arch}`
  throw memoryError(
    'ERR_UNSUPPORTED',
    `@rkllmjs/memory has no binary for ${here}`,
    {
      hint:
        'prebuilt ones are for linux-arm64 and linux-x64 with glibc 2.28 or later; ' +
        'if this is one of those, install again without --omit=optional',
    },
    { cause },
  )
}

// In Deno a finalizer runs after the last ArrayBuffer over the memory, on any thread. In other runtimes a finalizer on
// another thread means that a thread ended, and ArrayBuffers may live elsewhere.
native.setup(memoryError, process.versions.deno !== undefined)

module.exports = native

/**
 * Finds the native part that another copy of this version has loaded into the process, perhaps in another thread.
 * Copies share it, because device ledgers and shared memory are per process.
 */
function findLoadedCopy() {
  if (process.env.NAPI_RS_NATIVE_LIBRARY_PATH) return undefined
  let maps = ''
  try {
    maps = readFileSync('/proc/self/maps', 'utf8')
  } catch {
    // Without /proc each copy loads its own.
  }
  for (const path of new Set(maps.match(/\/.*\/rkllm-memory\.linux-[^/\n]*\.node$/gm))) {
    try {
      const other = require(path)
      if (other.version() === version) return other
    } catch {
      // The file was replaced or removed since.
    }
  }
  return undefined
}
