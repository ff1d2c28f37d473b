'use strict'

// Functions of the runtime, taken when the package is loaded. Fake timers (of jest, vitest, sinon, node:test) replace
// globals later, and test environments such as jsdom lack some. ESLint refuses the globals in src/js.

const { Buffer } = require('node:buffer')
const { performance } = require('node:perf_hooks')
const { TextEncoder } = require('node:util')
const timers = require('node:timers')

const { clearImmediate, clearInterval, clearTimeout, setImmediate, setInterval, setTimeout } = timers
const { AbortController } = globalThis
const settled = Promise.resolve()

module.exports = {
  AbortController,
  Buffer,
  TextEncoder,
  clearImmediate,
  clearInterval,
  clearTimeout,
  /** Milliseconds since 1970. */
  dateNow: Date.now,
  nextTick: process.nextTick.bind(process),
  /** Milliseconds of a clock that is never set. */
  now: performance.now.bind(performance),
  /** @type {(act: () => void) => void} */
  queueMicrotask: (act) => void settled.then(act),
  setImmediate,
  setInterval,
  setTimeout,
}
