'use strict'

// Lock files: one in the runtime directory for each worker. A parent that crashed leaves them, and the next residency
// with workers reads them.
//
// A worker ends with its parent by itself (src/sys/process.rs). A process that it started in a group of its own does
// not, and neither does a worker whose binary part did not load. Each has the worker's token in its environment, so
// that no process is taken for one because of its id.

const { readFileSync, readdirSync, rmSync, writeFileSync } = require('node:fs')
const { join } = require('node:path')
const native = require('../../core/binding.js')
const { ownDirectory } = require('../../inspect/socket-path.js')

/** The variable in the environment of a worker and of the processes that it starts. */
const TOKEN = 'RKLLM_MEMORY_WORKER'
const NAME = /^(\d+)-(\d+)\.worker$/
/** The socket of a worker that has not connected yet. */
const SOCKET = /^(\d+)-w\d+\.sock$/

/** @typedef {{ pid: number, start: number }} Process */

/**
 * Returns a file's text; null if it cannot be read.
 *
 * @param {string} path
 */
function textOf(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return null
  }
}

/**
 * Returns when a process started, in clock ticks since boot; null if it does not exist, or has ended and waits for its
 * parent.
 *
 * @param {number} pid
 */
function startOf(pid) {
  const stat = textOf(`/proc/${pid}/stat`)
  // The name is in parentheses, and may have any character.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields === undefined || fields[0] === 'Z' || fields[0] === 'X' ? null : Number(fields[19])
}

/**
 * Records a worker. Returns the function that removes the record.
 *
 * @param {number} pid
 * @param {{ token: string, model: string }} about
 */
function recordWorker(pid, { token, model }) {
  const start = startOf(pid)
  if (start === null) return () => {}
  const file = join(ownDirectory(), `${pid}-${start}.worker`)
  const parent = { pid: process.pid, start: startOf(process.pid) }
  writeFileSync(file, `${JSON.stringify({ version: 1, token, model, parent })}\n`, { mode: 0o600 })
  return () => rmSync(file, { force: true })
}

/**
 * Kills the processes that have a worker's token, and returns them.
 *
 * @param {string} token
 * @returns {Process[]}
 */
function killProcessesOf(token) {
  const mark = `${TOKEN}=${token}\0`
  const killed = []
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid) || pid === process.pid) continue
    const start = startOf(pid)
    // The start first: an environment that is read later is that of this process, or of one that is not killed.
    if (start === null || !`${textOf(`/proc/${pid}/environ`) ?? ''}\0`.includes(mark)) continue
    if (native.killProcess(pid, start)) killed.push({ pid, start })
  }
  return killed
}

/** Ends the workers of parents that have crashed, and removes their files. Returns the ids of killed processes. */
function endLeftWorkers() {
  const directory = ownDirectory()
  const killed = []
  for (const name of readdirSync(directory)) {
    const file = join(directory, name)
    const [, owner] = SOCKET.exec(name) ?? []
    if (owner !== undefined && startOf(Number(owner)) === null) rmSync(file, { force: true })
    if (!NAME.test(name)) continue
    let about
    try {
      about = JSON.parse(textOf(file) ?? '')
    } catch {
      // Its parent is writing it, or crashed in that moment.
      about = null
    }
    const { token, parent } = about ?? {}
    if (typeof token === 'string' && typeof parent?.pid === 'number') {
      // A parent that lives sees to its workers; a thread of it that ended has left the file.
      if (startOf(parent.pid) === parent.start && isAlive(name)) continue
      killed.push(...killProcessesOf(token).map(({ pid }) => pid))
    } else if (isAlive(name)) continue
    rmSync(file, { force: true })
  }
  return killed
}

/**
 * Whether the process that a file is called after runs.
 *
 * @param {string} name
 */
function isAlive(name) {
  const [, pid, start] = NAME.exec(name) ?? []
  return startOf(Number(pid)) === Number(start)
}

module.exports = { TOKEN, endLeftWorkers, killProcessesOf, recordWorker, startOf }
