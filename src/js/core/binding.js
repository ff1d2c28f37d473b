'use strict'

// Loads the native part and sets it up for this environment.

const { version } = require('../../../package.json')
const { memoryError } = require('./errors.js')
const { loadBinary } = require('./load-binary.js')

/** @type {typeof import('../native.js')} */
const native = loadBinary(version)

// In Deno a finalizer runs after the last ArrayBuffer over the memory, on any thread. In other runtimes a finalizer on
// another thread means that a thread ended, and ArrayBuffers may live elsewhere.
native.setup(memoryError, process.versions.deno !== undefined)

module.exports = native
