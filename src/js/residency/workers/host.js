'use strict'

// The program of a worker process: loads one module, and answers the calls of its parent.
//
//   node host.js SOCKET MODULE [ARGS]
//
// It ends with its parent, whatever the module's code does at that moment.

const net = require('node:net')
const { pathToFileURL } = require('node:url')
const native = require('../../core/binding.js')
const { AbortController } = require('../../core/runtime.js')
const { checkReport } = require('../load-progress.js')
const { Channel } = require('./channel.js')

/** Items of a stream that are on their way at a time. */
const WINDOW = 64

native.endWithParent()

const [, , path, module_, ...args] = process.argv
const { RKLLM_MEMORY_WORKER: token } = process.env

/** @type {Map<number, AbortController>} */
const signals = new Map()
/** Streams under way, by call. @type {Map<number, { credit: number, wake: () => void, stopped: boolean }>} */
const streams = new Map()
const loading = new AbortController()
/** @type {Record<string, any>} */
let exported = {}
let isUnloaded = false

const socket = net.connect(path)
const channel = new Channel(socket, (message) => void handlers[message.type]?.(message), {
  signalOf(number) {
    const controller = new AbortController()
    signals.set(number, controller)
    return controller.signal
  },
})
socket.on('connect', () => channel.send({ type: 'hello', token }))
// The parent has ended, or has given up on this process.
socket.on('error', end)
socket.on('close', end)

/** Ends this process, and those that it started if its parent does not see to them. */
function end() {
  if (isUnloaded) process.exit(0)
  try {
    process.kill(-process.pid, 'SIGKILL')
  } catch {
    // It leads no group.
  }
  process.exit(1)
}

/** @type {Record<string, (message: any) => unknown>} */
const handlers = {
  load,
  call,
  abort: ({ signal, reason }) => {
    signals.get(signal)?.abort(reason)
    signals.delete(signal)
  },
  'cancel-load': ({ reason }) => loading.abort(reason),
  more: ({ id, count }) => {
    const stream = streams.get(id)
    if (stream === undefined) return
    stream.credit += count
    stream.wake()
  },
  stop: ({ id }) => {
    const stream = streams.get(id)
    if (stream === undefined) return
    stream.stopped = true
    stream.wake()
  },
  unload,
}

/** @param {any} message */
async function load({ context }) {
  try {
    const { default: whole, ...named } = await import(pathToFileURL(module_).href)
    exported = typeof whole === 'object' && whole !== null ? { ...whole, ...named } : named
    const progress = (/** @type {unknown} */ bytes, /** @type {unknown} */ total) =>
      void channel.send({ type: 'progress', ...checkReport(bytes, total) })
    await exported.load?.({ ...context, args, signal: loading.signal, progress })
    const methods = Object.keys(exported).filter((name) => typeof exported[name] === 'function')
    const isStream = (/** @type {string} */ name) => /Generator/.test(exported[name].constructor?.name)
    channel.send({
      type: 'loaded',
      methods: methods.filter((name) => !['load', 'unload'].includes(name)).map((name) => [name, isStream(name)]),
    })
  } catch (error) {
    channel.send({ type: 'failed', error: errorOf(error) })
    socket.end()
  }
}

/** @param {any} message */
async function call({ id, method, args: given, used }) {
  try {
    const result = await exported[method](...given)
    const iterator = iteratorOf(result)
    if (iterator === undefined) return send({ type: 'result', id, value: result })
    await stream(id, iterator)
  } catch (error) {
    send({ type: 'error', id, error: errorOf(error) })
  } finally {
    for (const signal of used) signals.delete(signal)
  }
}

/**
 * Sends a message; a result that is no data becomes the call's error.
 *
 * @param {{ type: string, id: number, [field: string]: unknown }} message
 */
function send(message) {
  try {
    channel.send(message)
  } catch (error) {
    channel.send({ type: 'error', id: message.id, error: errorOf(error) })
  }
}

/**
 * Sends the items of an iterator, as many as the parent has asked for.
 *
 * @param {number} id
 * @param {AsyncIterator<unknown>} iterator
 */
async function stream(id, iterator) {
  const state = { credit: WINDOW, wake: () => {}, stopped: false }
  streams.set(id, state)
  send({ type: 'stream', id })
  try {
    for (;;) {
      while (state.credit === 0 && !state.stopped) await new Promise((resolve) => (state.wake = () => resolve(null)))
      if (state.stopped) return void (await iterator.return?.())
      const { done, value } = await iterator.next()
      if (done) return send({ type: 'end', id, value })
      state.credit--
      channel.send({ type: 'item', id, value })
    }
  } finally {
    streams.delete(id)
  }
}

/**
 * @param {any} value
 * @returns {AsyncIterator<unknown> | undefined} of a generator or a stream; data that can be iterated is sent as data
 */
function iteratorOf(value) {
  if (typeof value !== 'object' || value === null) return undefined
  if (typeof value[Symbol.asyncIterator] === 'function') return value[Symbol.asyncIterator]()
  return typeof value.next === 'function' && typeof value[Symbol.iterator] === 'function' ? value : undefined
}

/** @param {any} message */
async function unload({ context }) {
  try {
    await exported.unload?.(context)
    isUnloaded = true
    channel.send({ type: 'unloaded' })
  } catch (error) {
    channel.send({ type: 'failed', error: errorOf(error) })
  }
  socket.end()
}

/**
 * A module may throw anything.
 *
 * @param {unknown} error
 */
const errorOf = (error) => (error instanceof Error ? error : new Error(String(error)))
