'use strict'

// Runs the checks in another process, which a driver may hang or end. That costs one result, and not the file.

const { fork } = require('node:child_process')
const { join } = require('node:path')
const { clearTimeout, setTimeout } = require('../../core/runtime.js')
const { CHECKS } = require('./checks.js')

/**
 * @typedef {import('./checks.js').Result} Result
 *
 * @typedef {object} Options
 * @property {{ backend: string, device?: string, simulated?: object }} opening options of the managers
 * @property {number} seconds of the soak
 */

/**
 * Runs all checks, and resolves to a result for each.
 *
 * @param {Options} options
 * @param {{ limitMs: number, program?: string, onStart?: (title: string, at: number) => void,
 *   onResult?: (result: Result) => void }} how `program`: the child's, for tests
 * @returns {Promise<Result[]>}
 */
function runChecks(options, { limitMs, program = join(__dirname, 'child.js'), onStart, onResult }) {
  const child = fork(program, [], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
  /** @type {Result[]} */
  const results = []
  /** @type {string | undefined} */
  let running
  let stderr = ''
  let late = false
  child.stderr?.setEncoding('utf8').on('data', (text) => (stderr = (stderr + text).slice(-2000)))
  const timer = setTimeout(() => {
    late = true
    child.kill('SIGKILL')
    // A process in an uninterruptible system call outlives SIGKILL: this one goes on without it.
    settle(null, null)
  }, limitMs)

  /** @type {(results: Result[]) => void} */
  let resolve
  const promise = /** @type {Promise<Result[]>} */ (new Promise((done) => (resolve = done)))
  let settled = false

  child.on('message', (message) => {
    if (settled) return
    const { started, result } = /** @type {{ started?: string, result?: Result }} */ (message)
    if (started !== undefined) {
      running = started
      const at = CHECKS.findIndex(({ id }) => id === started)
      onStart?.(CHECKS[at].title, at)
    }
    if (result !== undefined) {
      running = undefined
      add(result)
    }
  })
  child.on('error', (error) => ((stderr += error.message), settle(null, null)))
  child.on('close', (status, signal) => settle(status, signal))
  child.send(options, (error) => {
    // The 'close' event tells the rest.
    if (error) stderr += error.message
  })
  return promise

  /** @param {Result} result */
  function add(result) {
    results.push(result)
    onResult?.(result)
  }

  /**
   * @param {number | null} status
   * @param {string | null} signal
   */
  function settle(status, signal) {
    if (settled) return
    settled = true
    clearTimeout(timer)
    const end = late
      ? `was ended: it was not ready after ${Math.round(limitMs / 1000)} s`
      : `ended with ${signal ?? `status ${status}`}`
    const lines = stderr.trim().split('\n')
    const told = lines.find((line) => /^\w*Error\b/.test(line)) ?? lines[lines.length - 1]
    const detail = told === '' ? '' : `: ${told}`
    const seen = new Set(results.map(({ id }) => id))
    for (const { id, title } of CHECKS) {
      if (seen.has(id)) continue
      const isFirst = running === undefined && results.length === 0 && id === CHECKS[0].id
      if (id === running || isFirst) {
        add({ id, title, status: 'failed', message: `the process of the checks ${end}${detail}` })
      } else add({ id, title, status: 'not run' })
    }
    // The handle of a process that does not end must not keep this one alive.
    child.unref()
    child.stderr?.destroy()
    if (child.connected) child.disconnect()
    resolve(results)
  }
}

module.exports = { runChecks }
