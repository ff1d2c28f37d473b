'use strict'

// The native part, told once what it needs of this environment.

const { readFileSync } = require('node:fs')
const { version } = require('../../../package.json')
const { memoryError } = require('./errors.js')

let native
try {
  native = ofAnotherCopy() ?? require('../native.js')
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

// Deno's finalizers come for the last ArrayBuffer over the memory, whichever thread they come from; those of the
// others that come from another thread come because a thread died, and say nothing of ArrayBuffers elsewhere.
native.setup(memoryError, process.versions.deno !== undefined)

module.exports = native

/**
 * The native part that another copy of this version has brought into the process, perhaps in another thread: devices, ledgers and
 * shared memory are one for the process.
 */
function ofAnotherCopy() {
  if (process.env.NAPI_RS_NATIVE_LIBRARY_PATH) return undefined
  let maps = ''
  try {
    maps = readFileSync('/proc/self/maps', 'utf8')
  } catch {
    // Not mounted: then each copy has its own.
  }
  for (const path of new Set(maps.match(/\/.*\/rkllm-memory\.linux-[^/\n]*\.node$/gm))) {
    try {
      const other = require(path)
      if (other.version() === version) return other
    } catch {
      // It was replaced or removed since.
    }
  }
  return undefined
}
