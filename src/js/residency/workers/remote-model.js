'use strict'

// The model of a worker, as its parent sees it: an object whose methods call the exports of the worker's module.
// A generator is a stream here as there, with as many items on their way as the window allows.

const { queueMicrotask } = require('../../core/runtime.js')
const { Channel } = require('./channel.js')

/** Consumed items that are told of together: half of the worker's window. */
const ACKNOWLEDGED = 32

/**
 * @typedef {object} Call
 * @property {(value: any) => void} resolve
 * @property {(error: unknown) => void} reject
 * @property {Stream | null} stream
 * @property {() => void} done removes the listeners of its signals
 */

class RemoteModel {
  #channel
  #ids = 0
  #signals = 0
  /** @type {Map<number, Call>} */
  #calls = new Map()
  /** Numbers and clean-ups of the signals in the arguments that are being sent. */
  #sending = { used: /** @type {number[]} */ ([]), done: /** @type {(() => void)[]} */ ([]) }
  /** @type {unknown} */
  #error
  #onBusy
  #onMessage

  /**
   * @param {import('node:net').Socket} socket
   * @param {(message: any) => void} onMessage gets the messages that belong to no call
   * @param {(isBusy: boolean) => void} onBusy is told when calls are under way
   */
  constructor(socket, onMessage, onBusy) {
    this.#onMessage = onMessage
    this.#onBusy = onBusy
    this.#channel = new Channel(socket, (message) => this.#take(message), {
      signal: (signal) => this.#watch(signal),
    })
  }

  /** @param {object} message */
  send(message) {
    this.#channel.send(message)
  }

  /**
   * Makes the object that users get.
   *
   * @param {[name: string, isStream: boolean][]} methods
   */
  model(methods) {
    /** @type {Record<string, (...args: unknown[]) => unknown>} */
    const model = Object.create(null)
    for (const [name, isStream] of methods) {
      model[name] = isStream
        ? (...args) => new Stream(this, () => this.#call(name, args))
        : (...args) => this.#call(name, args)
    }
    return Object.freeze(model)
  }

  /**
   * Ends all calls: the worker has ended.
   *
   * @param {unknown} error
   */
  end(error) {
    this.#error = error
    for (const [id, call] of [...this.#calls]) this.#settle(id, () => fail(call, error))
  }

  /**
   * @param {string} method
   * @param {unknown[]} args
   * @returns {Promise<any>}
   */
  #call(method, args) {
    if (this.#error !== undefined) return Promise.reject(this.#error)
    const id = ++this.#ids
    return new Promise((resolve, reject) => {
      /** @type {{ used: number[], done: (() => void)[] }} */
      const sending = { used: [], done: [] }
      this.#sending = sending
      /** @type {Call} */
      const call = { resolve, reject, stream: null, done: () => sending.done.forEach((end) => end()) }
      this.#calls.set(id, call)
      this.#onBusy(true)
      try {
        // The numbers of the signals are known once the arguments before them are encoded.
        this.#channel.send({ type: 'call', id, method, args, used: sending.used })
      } catch (error) {
        this.#settle(id, () => reject(error))
      }
    })
  }

  /**
   * @param {AbortSignal} signal
   * @returns {number}
   */
  #watch(signal) {
    const number = ++this.#signals
    const tell = () => this.#channel.send({ type: 'abort', signal: number, reason: dataOf(signal.reason) })
    this.#sending.used.push(number)
    // After the call, which the worker must know first.
    if (signal.aborted) queueMicrotask(tell)
    else signal.addEventListener('abort', tell, { once: true })
    this.#sending.done.push(() => signal.removeEventListener('abort', tell))
    return number
  }

  /**
   * Asks for more items of a stream.
   *
   * @param {number} id
   * @param {number} count
   */
  more(id, count) {
    if (this.#calls.has(id)) this.#channel.send({ type: 'more', id, count })
  }

  /** @param {number} id */
  stop(id) {
    if (!this.#calls.has(id)) return
    this.#channel.send({ type: 'stop', id })
    this.#settle(id, () => {})
  }

  /** @param {any} message */
  #take(message) {
    const { type, id } = message
    const call = this.#calls.get(id)
    if (id === undefined) return void this.#onMessage(message)
    if (call === undefined) return
    switch (type) {
      case 'result':
        return this.#settle(id, () => call.resolve(message.value))
      case 'error':
        return this.#settle(id, () => fail(call, message.error))
      case 'stream':
        call.stream = new Stream(this, null, id)
        return call.resolve(call.stream)
      case 'item':
        return void call.stream?.push({ done: false, value: message.value })
      default:
        return this.#settle(id, () => call.stream?.push({ done: true, value: message.value }))
    }
  }

  /**
   * @param {number} id
   * @param {() => void} settle
   */
  #settle(id, settle) {
    const call = this.#calls.get(id)
    if (call === undefined) return
    this.#calls.delete(id)
    call.done()
    if (this.#calls.size === 0) this.#onBusy(false)
    settle()
  }
}

/**
 * @param {Call} call
 * @param {unknown} error
 */
const fail = ({ stream, reject }, error) => (stream === null ? reject(error) : stream.fail(error))

/** @type {(reason: unknown) => unknown} */
const dataOf = (reason) => (reason instanceof Error || typeof reason !== 'object' ? reason : undefined)

/** The items of a generator in the worker. */
class Stream {
  #remote
  /** Starts the generator at the first `next`. @type {(() => Promise<any>) | null} */
  #start
  #id
  /** @type {IteratorResult<unknown>[]} */
  #items = []
  /** @type {{ resolve: (item: IteratorResult<unknown>) => void, reject: (error: unknown) => void }[]} */
  #waiting = []
  #consumed = 0
  #isOver = false
  /** @type {{ error: unknown } | null} */
  #failure = null
  /** A generator's stream is that of its call. @type {Promise<Stream> | undefined} */
  #inner

  /**
   * @param {RemoteModel} remote
   * @param {(() => Promise<any>) | null} start
   * @param {number} [id]
   */
  constructor(remote, start, id = 0) {
    this.#remote = remote
    this.#start = start
    this.#id = id
  }

  [Symbol.asyncIterator]() {
    return this
  }

  /** @returns {Promise<IteratorResult<unknown>>} */
  async next() {
    if (this.#start !== null) {
      if (this.#isOver) return { done: true, value: undefined }
      return (await (this.#inner ??= this.#start())).next()
    }
    const item = this.#items.shift()
    if (item !== undefined) {
      this.#consume(item)
      return item
    }
    if (this.#failure !== null) {
      const { error } = this.#failure
      this.#failure = null
      throw error
    }
    if (this.#isOver) return { done: true, value: undefined }
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
  }

  /** @param {unknown} [value] */
  async return(value) {
    this.#isOver = true
    this.#items = []
    if (this.#start !== null) await (await this.#inner)?.return(value)
    else this.#remote.stop(this.#id)
    return { done: /** @type {const} */ (true), value }
  }

  /** @param {IteratorResult<unknown>} item */
  push(item) {
    if (item.done) this.#isOver = true
    const waiting = this.#waiting.shift()
    if (waiting === undefined) {
      this.#items.push(item)
      return
    }
    this.#consume(item)
    waiting.resolve(item)
    if (item.done) for (const each of this.#waiting.splice(0)) each.resolve({ done: true, value: undefined })
  }

  /** @param {unknown} error */
  fail(error) {
    this.#isOver = true
    const waiting = this.#waiting.splice(0)
    if (waiting.length === 0) this.#failure = { error }
    for (const [at, { resolve, reject }] of waiting.entries())
      if (at === 0) reject(error)
      else resolve({ done: true, value: undefined })
  }

  /** @param {IteratorResult<unknown>} item */
  #consume({ done }) {
    if (done || ++this.#consumed % ACKNOWLEDGED !== 0) return
    this.#remote.more(this.#id, ACKNOWLEDGED)
  }
}

module.exports = { RemoteModel }
