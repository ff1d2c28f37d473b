'use strict'

// The inspect socket: a running manager's figures for the command line, over a Unix socket that only its user can reach.
//
// One line of JSON asks, `{"want": ["stats", "usage"]}`, and one line answers. Nothing that is asked changes anything. The manager is
// held weakly, and neither the socket nor a connection keeps the process alive.

const { readdirSync, rmSync, statSync, chmodSync } = require('node:fs')
const net = require('node:net')
const { join } = require('node:path')
const { threadId } = require('node:worker_threads')
const { formatBytes } = require('../core/format-bytes.js')
const { ownDirectory, parseName, socketName } = require('./socket-path.js')
const { version } = require('../../../package.json')

const MAX_REQUEST = 4096
const MAX_CONNECTIONS = 16
/** A connection that says nothing, or takes nothing, for this long is closed. */
const IDLE_MS = 30_000
/** Managers of one process: more than this many sockets are a mistake. */
const MAX_SOCKETS = 1000
/** A socket that refuses may be one that is about to listen. */
const SETTLED_MS = 5000

const ANSWERS = {
  stats: (manager) => manager.getMemoryStats(),
  usage: (manager) => manager.getMemoryUsage(),
  snapshot: (manager) => manager.takeSnapshot(),
  profile: (manager) => manager.getMemoryProfile(),
  metrics: (manager) => manager.metrics(),
}

/** How to close each socket of this thread. */
const open = new Set()
let listening = false
const collected = new FinalizationRegistry((close) => close())

/**
 * Opens a socket for `manager`; what closes it. A process that asked for it must not fail because somebody has put something in the
 * way: then there is a process warning and no socket.
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

function listen(directory, reference) {
  let [server, path, closed] = [undefined, undefined, false]
  const bind = (serial) => {
    path = join(directory, socketName(process.pid, serial))
    server = net.createServer((socket) => converse(socket, reference, serial))
    server.maxConnections = MAX_CONNECTIONS
    server.on('error', (error) => {
      if (error.code === 'EADDRINUSE' && serial < MAX_SOCKETS && !closed) bind(serial + 1)
      else warn(error)
    })
    // Exclusive: a cluster's worker would leave the listening to its primary.
    server.listen({ path, exclusive: true }, () => {
      if (closed) return remove()
      // Nobody else gets into the directory meanwhile.
      chmodSync(path, 0o600)
      server.unref()
      sweep(directory)
    })
    server.unref()
  }
  const remove = () => {
    server.close()
    rmSync(path, { force: true })
  }
  const close = () => {
    closed = true
    open.delete(close)
    if (server.listening) remove()
  }
  bind(0)
  open.add(close)
  atExit()
  return close
}

function atExit() {
  if (listening) return
  listening = true
  process.once('exit', () => {
    for (const close of open) close()
  })
}

/** Answers what one connection asks, one request after the other. */
function converse(socket, reference, serial) {
  let heard = ''
  let answering = false
  socket.unref?.()
  socket.setEncoding('utf8')
  socket.setTimeout(IDLE_MS, () => socket.destroy())
  socket.on('error', () => socket.destroy())
  socket.on('data', (text) => {
    heard += text
    next()
  })
  const next = () => {
    if (answering) return
    const end = heard.indexOf('\n')
    if (end < 0 ? heard.length > MAX_REQUEST : end > MAX_REQUEST) {
      socket.end(
        line({ error: { code: 'ERR_OUT_OF_RANGE', message: `a request is at most ${formatBytes(MAX_REQUEST)}` } }),
      )
      socket.removeAllListeners('data')
      return
    }
    if (end < 0) return
    const request = heard.slice(0, end)
    heard = heard.slice(end + 1)
    answering = true
    // A reader that is slow gets its next answer when it has taken this one: no more than one is ever kept for it.
    socket.pause()
    socket.write(line(answer(request, reference.deref(), serial)), () => {
      answering = false
      socket.resume()
      next()
    })
  }
}

/** What to say to `request`, a line of JSON. */
function answer(request, manager, serial) {
  try {
    if (manager === undefined || manager.disposed) return refusal('ERR_MANAGER_DISPOSED', 'the manager was disposed')
    const { want } = JSON.parse(request) ?? {}
    if (!Array.isArray(want)) return refusal('ERR_INVALID_ARG_TYPE', 'a request is {"want": [...]}')
    const unknown = want.find((name) => typeof name !== 'string' || !Object.hasOwn(ANSWERS, name))
    if (unknown !== undefined) {
      return refusal(
        'ERR_INVALID_ARG_TYPE',
        `nothing is called ${JSON.stringify(unknown)}; there are ${Object.keys(ANSWERS).join(', ')}`,
      )
    }
    const answers = Object.fromEntries(want.map((name) => [name, ANSWERS[name](manager)]))
    return { version: 1, about: about(manager, serial), ...answers }
  } catch (error) {
    if (error instanceof SyntaxError) return refusal('ERR_INVALID_ARG_TYPE', 'a request is one line of JSON')
    return refusal(error.code ?? null, error.message)
  }
}

const refusal = (code, message) => ({ version: 1, error: { code, message } })

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

/** Addresses are bigints, which JSON has none of: hexadecimal strings. */
const line = (value) =>
  `${JSON.stringify(value, (_key, of) => (typeof of === 'bigint' ? `0x${of.toString(16)}` : of))}\n`

/** Removes the sockets that processes and threads which died left behind. */
function sweep(directory) {
  for (const name of readdirSync(directory)) {
    const path = join(directory, name)
    if (
      parseName(name) === undefined ||
      Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Infinity) < SETTLED_MS
    )
      continue
    // Whether somebody listens is the only proof: a process of another container has a pid that says nothing here.
    const probe = net.connect(path, () => probe.destroy())
    probe.unref?.()
    probe.on('error', ({ code }) => {
      if (code === 'ECONNREFUSED') rmSync(path, { force: true })
    })
  }
}

function warn(error) {
  process.emitWarning(`No inspect socket: ${error.message}`, { code: 'RKLLM_INSPECT', detail: error.hint })
}

module.exports = { openInspector }
