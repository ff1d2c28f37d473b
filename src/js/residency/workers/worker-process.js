'use strict'

// One worker: starts its process, connects to it, loads and unloads its model, and sees to it that the process and
// those that it started are gone at the end.

const { spawn } = require('node:child_process')
const { randomBytes } = require('node:crypto')
const { rmSync } = require('node:fs')
const net = require('node:net')
const { basename, join } = require('node:path')
const { memoryError } = require('../../core/errors.js')
const { clearTimeout, now, setTimeout } = require('../../core/runtime.js')
const { systemError } = require('../../core/system-errors.js')
const { makeReader } = require('../../devices/doctor/reader.js')
const { ownDirectory } = require('../../inspect/socket-path.js')
const { treeOf } = require('../../models/process-memory.js')
const { TOKEN, killProcessesOf, recordWorker, startOf } = require('./lock-files.js')
const { RemoteModel } = require('./remote-model.js')

const HOST = join(__dirname, 'host.js')
/** The output that is kept for messages. */
const MAX_OUTPUT = 1 << 16
/** The time for output that is still on its way when the process has ended. */
const DRAIN_MS = 200
/** The time for `unload` of a module; then its process is killed. */
const UNLOAD_MS = 10_000
/** A process that was killed and is not gone by then hangs in the kernel. */
const KILL_MS = 10_000
/** The time between looks for processes that are not children of this one. */
const GONE_POLL_MS = 2

/** @typedef {import('./lock-files.js').Process} Process */
/**
 * @typedef {object} WorkerOptions
 * @property {string} module path
 * @property {string[]} args
 * @property {Record<string, string>} env
 * @property {string} execPath
 * @property {(text: string) => void} [onOutput]
 */

/** Workers that run, to be killed when this process ends. @type {Set<WorkerProcess>} */
const running = new Set()
let hasExitHook = false
let serial = 0

class WorkerProcess {
  #options
  #name
  #onDeath
  #token = randomBytes(16).toString('hex')
  #output = ''
  /** @type {import('node:child_process').ChildProcess | null} */
  #child = null
  /** @type {net.Server | null} */
  #server = null
  #path = ''
  /** @type {RemoteModel | null} */
  #remote = null
  /** @type {net.Socket | null} */
  #socket = null
  #forget = () => {}
  /** Whether the end of the process is expected. */
  #isEnding = false
  /** Resolves when the process has ended. @type {Promise<void>} */
  #exited
  /** @type {() => void} */
  #exit = () => {}
  #hasExited = false
  /** @type {(bytes: number, total?: number) => void} */
  #progress = () => {}
  /** @type {{ resolve: (message: any) => void, reject: (error: unknown) => void } | null} waits for an answer */
  #waiting = null

  /**
   * @param {WorkerOptions} options
   * @param {string} name of the model
   * @param {(error: unknown, output: string) => void} onDeath is called when a loaded model's process ends by itself
   */
  constructor(options, name, onDeath) {
    this.#options = options
    this.#name = name
    this.#onDeath = onDeath
    this.#exited = new Promise((resolve) => (this.#exit = () => resolve(undefined)))
  }

  get pid() {
    return this.#hasExited ? null : (this.#child?.pid ?? null)
  }

  /** Resolves when the process has ended. */
  get exited() {
    return this.#exited
  }

  get output() {
    return this.#output
  }

  /**
   * Starts the process, and loads its model. Rejects if either fails; the process is gone then.
   *
   * @param {{
   *   signal: AbortSignal, progress: (bytes: number, total?: number) => void, [field: string]: unknown
   * }} context
   * @param {() => void} begin is called when the process is there
   * @returns {Promise<any>}
   */
  async load({ signal, progress, ...context }, begin) {
    this.#progress = progress
    const aborted = () => this.#fail(signal.reason)
    signal.addEventListener('abort', aborted, { once: true })
    try {
      signal.throwIfAborted()
      const answer = new Promise((resolve, reject) => (this.#waiting = { resolve, reject }))
      await this.#listen()
      this.#start()
      await answer
      begin()
      const { methods } = await this.#ask({ type: 'load', context })
      this.#setBusy(false)
      return /** @type {RemoteModel} */ (this.#remote).model(methods)
    } catch (error) {
      await this.kill()
      throw error
    } finally {
      signal.removeEventListener('abort', aborted)
    }
  }

  /**
   * Unloads the model and ends the process. Rejects if the module's `unload` failed, and if the process is not gone.
   *
   * @param {object} context
   */
  async unload(context) {
    this.#isEnding = true
    if (this.#hasExited) return this.kill()
    const late = memoryError('ERR_DEVICE_IO', `unload has not settled after ${UNLOAD_MS} ms`)
    const timer = setTimeout(() => this.#fail(late), UNLOAD_MS)
    try {
      await this.#ask({ type: 'unload', context })
    } finally {
      clearTimeout(timer)
      await this.kill()
    }
  }

  /** Kills the process and those that it started. Resolves when they are gone. */
  async kill() {
    this.#isEnding = true
    const killed = this.killNow()
    const pid = this.#child?.pid
    if (pid !== undefined) {
      let timer
      const late = new Promise((resolve) => (timer = setTimeout(() => resolve(true), KILL_MS)))
      try {
        if (await Promise.race([this.#exited, late])) throw heldByKernel(pid)
        // Others end some time after the signal too, and hold their memory until then.
        await gone([...killed, ...killProcessesOf(this.#token)])
      } finally {
        clearTimeout(timer)
      }
    }
    this.#close()
  }

  /**
   * Sends the signals, and does not wait. Returns the processes that were there.
   *
   * @returns {Process[]}
   */
  killNow() {
    const pid = this.pid
    if (pid === null) return []
    const tree = treeOf(makeReader(), pid)
    const found = tree.map((id) => ({ pid: id, start: startOf(id) })).filter(({ start }) => start !== null)
    for (const target of [...tree, -pid]) {
      try {
        process.kill(target, 'SIGKILL')
      } catch {
        // It has ended by itself, or has no group of its own yet.
      }
    }
    return /** @type {Process[]} */ (found)
  }

  /** Waits for the process on a socket that only this user can reach. */
  #listen() {
    return new Promise((resolve, reject) => {
      this.#path = join(ownDirectory(), `${process.pid}-w${serial++ % 1000}.sock`)
      rmSync(this.#path, { force: true })
      const server = net.createServer((socket) => this.#connected(socket))
      this.#server = server
      server.on('error', (error) => reject(systemError('a worker cannot be reached', error, this.#path) ?? error))
      server.listen({ path: this.#path, exclusive: true }, () => resolve(undefined))
    })
  }

  #start() {
    const { module: path, args, env, execPath, onOutput } = this.#options
    const run = /^deno/.test(basename(execPath)) ? ['run', '--allow-all'] : []
    const child = spawn(execPath, [...run, HOST, this.#path, path, ...args], {
      env: { ...process.env, ELECTRON_RUN_AS_NODE: '1', ...env, [TOKEN]: this.#token },
      // Standard input is the pipe whose end tells the process of the end of this one.
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    this.#child = child
    child.on('error', (error) => {
      if (child.pid !== undefined) return
      this.#hasExited = true
      this.#exit()
      this.#fail(systemError(`the worker ${execPath} cannot be started`, error, execPath) ?? error)
    })
    if (child.pid === undefined) return
    running.add(this)
    killAtExit()
    this.#forget = recordWorker(child.pid, { token: this.#token, model: this.#name })
    for (const stream of [child.stdout, child.stderr]) {
      // Characters may be split over pieces.
      stream.setEncoding('utf8')
      stream.on('data', (/** @type {string} */ text) => {
        this.#output = (this.#output + text).slice(-MAX_OUTPUT)
        onOutput?.(text)
      })
      unref(stream)
    }
    child.stdin.on('error', () => {})
    unref(child.stdin)
    child.on('exit', (code, signal) => {
      this.#hasExited = true
      this.#exit()
      const drained = setTimeout(() => this.#died(code, signal), DRAIN_MS)
      child.on('close', () => {
        clearTimeout(drained)
        this.#died(code, signal)
      })
    })
  }

  /** @param {net.Socket} socket */
  #connected(socket) {
    socket.on('error', () => socket.destroy())
    const remote = new RemoteModel(
      socket,
      (message) => {
        if (this.#socket === socket && message.type === 'progress')
          return this.#progress(message.bytes, message.total)
        if (this.#socket === socket) return this.#answered(message)
        if (message.type !== 'hello' || message.token !== this.#token || this.#socket !== null) return socket.destroy()
        this.#socket = socket
        this.#remote = remote
        this.#stopListening()
        this.#answered({ type: 'connected' })
        return undefined
      },
      (isBusy) => this.#setBusy(isBusy),
    )
  }

  /** @param {any} message */
  #answered(message) {
    const waiting = this.#waiting
    this.#waiting = null
    if (message.type === 'failed') waiting?.reject(message.error)
    else waiting?.resolve(message.type === 'connected' ? null : message)
  }

  /**
   * Sends a message, and waits for its answer or the end of the process.
   *
   * @param {object} message
   */
  #ask(message) {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject }
      if (this.#hasExited) return this.#fail(memoryError('ERR_DEVICE_LOST', 'the process has ended'))
      this.#setBusy(true)
      this.#remote?.send(message)
    })
  }

  /** @param {unknown} error */
  #fail(error) {
    const waiting = this.#waiting
    this.#waiting = null
    waiting?.reject(error)
  }

  /**
   * @param {number | null} code
   * @param {NodeJS.Signals | null} signal
   */
  #died(code, signal) {
    if (!running.delete(this)) return
    const how = signal === null ? `with status ${code}` : `by ${signal}`
    const line = this.#output.trimEnd().split('\n').at(-1)?.slice(0, 200)
    const error = memoryError(
      'ERR_DEVICE_LOST',
      `the process of the model ${JSON.stringify(this.#name)} ended ${how}` +
        (line ? `; its last line is ${JSON.stringify(line)}` : ''),
      signal === 'SIGKILL' ? { hint: 'the kernel may have killed it for want of memory: look at dmesg' } : {},
    )
    this.#remote?.end(error)
    const wasLoading = this.#waiting !== null
    this.#fail(error)
    if (!wasLoading && !this.#isEnding) this.#onDeath(error, this.#output)
  }

  /**
   * A worker keeps this process alive while it has work.
   *
   * @param {boolean} isBusy
   */
  #setBusy(isBusy) {
    const verb = isBusy ? 'ref' : 'unref'
    this.#child?.[verb]()
    this.#socket?.[verb]?.()
  }

  #stopListening() {
    this.#server?.close()
    this.#server = null
    rmSync(this.#path, { force: true })
  }

  #close() {
    this.#remote?.end(memoryError('ERR_DEVICE_LOST', `the model ${JSON.stringify(this.#name)} was unloaded`))
    this.#socket?.destroy()
    this.#child?.stdin?.destroy()
    this.#stopListening()
    this.#forget()
    running.delete(this)
  }
}

/** @param {number} pid */
const heldByKernel = (pid) =>
  memoryError('ERR_DEVICE_IO', `the process ${pid} was killed, and the kernel holds it`, {
    hint: 'it waits for a driver; its memory counts until it is gone. Look at dmesg, or restart the board',
  })

/**
 * Waits until killed processes are gone.
 *
 * @param {Process[]} killed
 */
async function gone(killed) {
  const end = now() + KILL_MS
  const isHere = (/** @type {Process} */ { pid, start }) => startOf(pid) === start
  for (let left = killed.filter(isHere); left.length > 0; left = left.filter(isHere)) {
    if (now() > end) throw heldByKernel(left[0].pid)
    await new Promise((resolve) => setTimeout(() => resolve(undefined), GONE_POLL_MS))
  }
}

/**
 * A pipe keeps the event loop alive, unlike other streams.
 *
 * @param {object} pipe
 */
const unref = (pipe) => /** @type {{ unref?: () => void }} */ (pipe).unref?.()

/** Kills the workers when this process ends: sooner than they notice themselves. */
function killAtExit() {
  if (hasExitHook) return
  hasExitHook = true
  process.once('exit', () => {
    for (const worker of running) {
      worker.killNow()
    }
  })
}

module.exports = { WorkerProcess }
