'use strict'

// The native part, told once what it needs of this environment.

const { memoryError } = require('./errors.js')

let native
try {
  native = require('./native.js')
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
