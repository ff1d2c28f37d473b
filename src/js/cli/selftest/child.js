'use strict'

// The process that runs the checks of `rkllm-memory selftest`. It sends its parent a message before and after each
// check, so that the parent knows which one a driver hung in, or which one ended the process.

const library = require('../../../../index.js')
const { CHECKS, runCheck } = require('./checks.js')

/** @type {(message: object) => Promise<void>} */
const send = (message) => new Promise((resolve) => process.send?.(message, () => resolve()))

process.once('message', async (options) => {
  const { opening, seconds } = /** @type {import('./run.js').Options} */ (options)
  for (const check of CHECKS) {
    await send({ started: check.id })
    await send({ result: await runCheck(check, library, { ...opening, seconds }) })
  }
  await send({ done: true })
  process.disconnect()
})
