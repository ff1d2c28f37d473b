/** A bounded queue in front of the one running inference. */

import { ApiError } from './errors.mjs'

/** Share of the newest run in the mean duration. */
const NEWEST = 0.2

export class Queue {
  /** @type {{ begin: () => void, controller: AbortController }[]} */
  #waiting = []
  /** @type {AbortController | undefined} */
  #running
  #limit
  #idle = Promise.withResolvers?.() ?? withResolvers()
  /** Why no request is taken; undefined while the server serves. */
  closed
  /** Means of the last runs: seconds, and bytes that each gave back. */
  #seconds = 0
  #bytes = 0

  /** @param {number} limit of waiting requests */
  constructor(limit) {
    this.#limit = limit
  }

  get limit() {
    return this.#limit
  }

  get waiting() {
    return this.#waiting.length
  }

  get running() {
    return this.#running !== undefined
  }

  /** Throws where a request would not be taken, before it costs memory. */
  expectRoom() {
    if (this.closed !== undefined) throw new ApiError(503, 'shutting_down', this.closed, { retryAfter: 5 })
    if (this.#waiting.length < this.#limit) return
    const message = `${this.#waiting.length} requests wait, and ${this.#limit} may: the server is overloaded`
    throw new ApiError(503, 'overloaded', message, { retryAfter: this.secondsUntilFree(0) })
  }

  /**
   * Estimates seconds until `bytes` more are free, by the bytes that the last runs gave back: from 1 to 120.
   *
   * @param {number} bytes
   */
  secondsUntilFree(bytes) {
    const runs = this.#bytes === 0 ? 1 : Math.max(1, bytes / this.#bytes)
    return Math.min(120, Math.max(1, Math.ceil(runs * this.#seconds)))
  }

  /**
   * Runs `task` when its turn comes, and returns its result. An abort ends the wait; the task itself looks at the
   * signal.
   *
   * @template T
   * @param {{ bytes: number, controller: AbortController }} request
   * @param {() => Promise<T>} task
   * @returns {Promise<T>}
   */
  async run({ bytes, controller }, task) {
    this.expectRoom()
    controller.signal.throwIfAborted()
    if (this.running) await this.#turn(controller)
    this.#running = controller
    const began = performance.now()
    try {
      return await task()
    } finally {
      const share = this.#bytes === 0 ? 1 : NEWEST
      this.#seconds += share * ((performance.now() - began) / 1000 - this.#seconds)
      this.#bytes += share * (bytes - this.#bytes)
      const next = this.#waiting.shift()
      // The next one runs from here on: no request comes between.
      if (next !== undefined) next.begin()
      else {
        this.#running = undefined
        if (this.closed !== undefined) this.#idle.resolve()
      }
    }
  }

  #turn(controller) {
    const { signal } = controller
    return new Promise((resolve, reject) => {
      const begin = () => {
        signal.removeEventListener('abort', leave)
        resolve()
      }
      const place = { begin, controller }
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(place), 1)
        reject(signal.reason)
      }
      signal.addEventListener('abort', leave, { once: true })
      this.#waiting.push(place)
    })
  }

  /** Takes no more requests. Resolves when those that wait or run have ended. */
  close(why) {
    this.closed ??= why
    if (!this.running) this.#idle.resolve()
    return this.#idle.promise
  }

  /** Ends the requests that wait and the one that runs. */
  abort(reason) {
    for (const { controller } of [...this.#waiting]) controller.abort(reason)
    this.#running?.abort(reason)
  }
}

function withResolvers() {
  const made = {}
  made.promise = new Promise((resolve) => (made.resolve = resolve))
  return made
}
