'use strict'

// The inspect socket: a Unix socket on which the command line reads a running manager's figures. Only the same user can
// connect.
//
// A request is one line of JSON, `{"want": ["stats", "usage"]}`, and so is the response. Requests only read. The socket
// holds the manager weakly, and neither the socket nor a connection keeps the process alive.

const { readdirSync, rmSync, statSync, chmodSync } = require('node:fs')
const net = require('node:net')
const { join } = require('node:path')
const { threadId } = require('node:worker_threads')
const { formatBytes } = require('../core/format-bytes.js')
const { hexAddresses } = require('../core/json.js')
const { dateNow } = require('../core/runtime.js')
const { ownDirectory, parseName, socketName } = require('./socket-path.js')
const { version } = require('../../../package.json')

const MAX_REQUEST = 4096
const MAX_CONNECTIONS = 16
/** A connection that is idle for this long is closed. */
const IDLE_MS = 30_000
/** The most sockets of one process; more managers in one process are a mistake. */
const MAX_SOCKETS = 1000
/** A socket file younger than this is not swept: its process may be about to listen. */
const SWEEP_AGE_MS = 5000

/**
 * @typedef {import('../types/manager.js').MemoryManager} MemoryManager
 * @typedef {WeakRef<MemoryManager>} Reference
 */

/**
 * The parts that a request may ask for.
 *
 * @type {Record<string, (manager: MemoryManager) => unknown>}
 */
const PARTS = {
  stats: (manager) => manager.getMemoryStats(),
  usage: (manager) => manager.getMemoryUsage(),
  snapshot: (manager) => manager.takeSnapshot(),
  profile: (manager) => manager.getMemoryProfile(),
  metrics: (manager) => manager.metrics(),
  prometheus: (manager) => manager.metrics({ format: 'prometheus' }),
}

/**
 * The close functions of this thread's sockets.
 *
 * @type {Set<() => void>}
 */
const open = new Set()
let exitHookAdded = false
const collected = new FinalizationRegistry((/** @type {() => void} */ close) => close())

/**
 * Opens a socket for `manager`, and returns the function that closes it. If the socket cannot be opened, emits a
 * process warning: a tool for inspection must not make the program fail.
 *
 * @param {MemoryManager} manager
 */
function openInspector(manager) {
  const reference = new WeakRef(manager)
  let close = () => {}
  try {
    close = listen(ownDirectory(), reference)
  } catch (error) {
    warn(error)
  }
  collected.register(manager, close, reference)
  return () => {
    collected.unregister(reference)
    close()
  }
}

/**
 * @param {string} directory
 * @param {Reference} reference
 */
function listen(directory, reference) {
  /** @type {{ server: net.Server, path: string } | undefined} */
  let bound
  let closed = false
  const bind = (/** @type {number} */ serial) => {
    const path = join(directory, socketName(process.pid, serial))
    const server = net.createServer((socket) => serve(socket, reference, serial))
    bound = { server, path }
    server.maxConnections = MAX_CONNECTIONS
    server.on('error', (/** @type {NodeJS.ErrnoException} */ error) => {
      if (error.code === 'EADDRINUSE' && serial < MAX_SOCKETS && !closed) bind(serial + 1)
      else warn(error)
    })
    // Exclusive: otherwise a cluster's primary would listen for its workers.
    server.listen({ path, exclusive: true }, () => {
      if (closed) return remove(server, path)
      // Until here the directory's mode protects the socket.
      chmodSync(path, 0o600)
      server.unref()
      sweep(directory)
    })
    server.unref()
  }
  const remove = (/** @type {net.Server} */ server, /** @type {string} */ path) => {
    server.close()
    rmSync(path, { force: true })
  }
  const close = () => {
    closed = true
    open.delete(close)
    if (bound?.server.listening) remove(bound.server, bound.path)
  }
  bind(0)
  open.add(close)
  atExit()
  return close
}

function atExit() {
  if (exitHookAdded) return
  exitHookAdded = true
  process.once('exit', () => {
    for (const close of open) close()
  })
}

/**
 * Answers the requests of one connection, one after the other.
 *
 * @param {net.Socket} socket
 * @param {Reference} reference
 * @param {number} serial
 */
function serve(socket, reference, serial) {
  let received = ''
  let responding = false
  socket.unref?.()
  socket.setEncoding('utf8')
  socket.setTimeout(IDLE_MS, () => socket.destroy())
  socket.on('error', () => socket.destroy())
  socket.on('data', (text) => {
    received += text
    next()
  })
  const next = () => {
    if (responding) return
    const end = received.indexOf('\n')
    if (end < 0 ? received.length > MAX_REQUEST : end > MAX_REQUEST) {
      socket.end(
        line({ error: { code: 'ERR_OUT_OF_RANGE', message: `a request is at most ${formatBytes(MAX_REQUEST)}` } }),
      )
      socket.removeAllListeners('data')
      return
    }
    if (end < 0) return
    const request = received.slice(0, end)
    received = received.slice(end + 1)
    responding = true
    // At most one response is buffered: a slow reader gets the next one after it has read this one.
    socket.pause()
    socket.write(line(respond(request, reference.deref(), serial)), () => {
      responding = false
      socket.resume()
      next()
    })
  }
}

/**
 * Returns the response to one request line.
 *
 * @param {string} request
 * @param {MemoryManager | undefined} manager
 * @param {number} serial
 */
function respond(request, manager, serial) {
  try {
    if (manager === undefined || manager.disposed) return refusal('ERR_MANAGER_DISPOSED', 'the manager was disposed')
    const { want } = JSON.parse(request) ?? {}
    if (!Array.isArray(want)) return refusal('ERR_INVALID_ARG_TYPE', 'a request is {"want": [...]}')
    const unknown = want.find((name) => typeof name !== 'string' || !Object.hasOwn(PARTS, name))
    if (unknown !== undefined) {
      return refusal(
        'ERR_INVALID_ARG_TYPE',
        `there is no part ${JSON.stringify(unknown)}; the parts are ${Object.keys(PARTS).join(', ')}`,
      )
    }
    const parts = Object.fromEntries(want.map((name) => [name, PARTS[name](manager)]))
    return { version: 1, about: about(manager, serial), ...parts }
  } catch (reason) {
    const error = /** @type {NodeJS.ErrnoException} */ (reason)
    if (error instanceof SyntaxError) return refusal('ERR_INVALID_ARG_TYPE', 'a request is one line of JSON')
    return refusal(error.code ?? null, error.message)
  }
}

/** @type {(code: string | null, message: string) => object} */
const refusal = (code, message) => ({ version: 1, error: { code, message } })

/**
 * @param {MemoryManager} manager
 * @param {number} serial
 */
function about(manager, serial) {
  const runtime = ['bun', 'deno'].find((name) => process.versions[name] !== undefined) ?? 'node'
  return {
    pid: process.pid,
    thread: threadId,
    manager: serial,
    program: process.argv[1] ?? null,
    runtime: `${runtime} ${process.versions[runtime]}`,
    package: version,
    uptimeS: Math.floor(process.uptime()),
    device: manager.device,
  }
}

/**
 * Encodes one line of JSON; bigints, which are addresses, become hexadecimal strings.
 *
 * @param {unknown} value
 */
const line = (value) =>
  `${JSON.stringify(value, hexAddresses)}\n`

/**
 * Removes the sockets of dead processes and threads.
 *
 * @param {string} directory
 */
function sweep(directory) {
  for (const name of readdirSync(directory)) {
    const path = join(directory, name)
    if (
      parseName(name) === undefined ||
      dateNow() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Infinity) < SWEEP_AGE_MS
    )
      continue
    // Connecting is the only proof: the pid may be of another container, where it means another process.
    const probe = net.connect(path, () => probe.destroy())
    probe.unref?.()
    probe.on('error', (/** @type {NodeJS.ErrnoException} */ { code }) => {
      if (code === 'ECONNREFUSED') rmSync(path, { force: true })
    })
  }
}

/** @param {unknown} reason */
function warn(reason) {
  const error = /** @type {import('../types/errors.js').MemoryError} */ (reason)
  process.emitWarning(`No inspect socket: ${error.message}`, { code: 'RKLLM_INSPECT', detail: error.hint })
}

module.exports = { openInspector }
