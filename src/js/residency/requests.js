'use strict'

// The requests that wait, and the leases that were granted, by their ids in the core.

/**
 * @typedef {import('./lease.js').Grant} Grant
 *
 * @typedef {object} Request
 * @property {number} timeoutMs
 * @property {Grant | true | null} result a lease, or true for a model that was preloaded
 * @property {unknown} error of a request that was refused
 * @property {((result: any) => void) | undefined} resolve
 * @property {((error: unknown) => void) | undefined} reject
 */

class Requests {
  /** @type {Map<number, Request>} */
  #waiting = new Map()
  /** @type {Map<number, Grant>} */
  #grants = new Map()
  #ids = 0

  /** Number of requests that wait. */
  get waiting() {
    return this.#waiting.size
  }

  /** Number of leases. */
  get leases() {
    return this.#grants.size
  }

  /** @param {number} timeoutMs */
  add(timeoutMs) {
    const id = ++this.#ids
    /** @type {Request} */
    const request = { timeoutMs, result: null, error: null, resolve: undefined, reject: undefined }
    this.#waiting.set(id, request)
    return { id, request }
  }

  /**
   * Starts a request that a signal may end, or whose deadline is now.
   *
   * @param {Request} request
   * @param {AbortSignal | undefined} signal
   * @param {() => void} start
   * @param {() => void} cancel
   * @returns {Promise<any>}
   */
  askCancellably(request, signal, start, cancel) {
    return new Promise((resolve, reject) => {
      const aborted = () => {
        Object.assign(request, { resolve: undefined, reject: undefined })
        cancel()
        reject(signal?.reason)
      }
      const done = (/** @type {(value: any) => void} */ settle) => (/** @type {any} */ value) => {
        signal?.removeEventListener('abort', aborted)
        settle(value)
      }
      Object.assign(request, { resolve: done(resolve), reject: done(reject) })
      signal?.addEventListener('abort', aborted, { once: true })
      start()
    })
  }

  /**
   * Ends a request with a lease, or with true if there is none.
   *
   * @param {number} id
   * @param {Grant | true} result
   */
  serve(id, result) {
    const request = /** @type {Request} */ (this.#waiting.get(id))
    this.#waiting.delete(id)
    if (result !== true) this.#grants.set(id, result)
    request.result = result
    request.resolve?.(result)
  }

  /**
   * Ends a request or a lease with an error.
   *
   * @param {number} id
   * @param {(timeoutMs: number) => unknown} errorOf
   */
  refuse(id, errorOf) {
    const grant = this.#grants.get(id)
    const request = this.#waiting.get(id)
    this.#grants.delete(id)
    this.#waiting.delete(id)
    const error = errorOf(request?.timeoutMs ?? 0)
    grant?.end(error)
    if (request === undefined) return
    request.error = error
    request.reject?.(error)
  }

  /**
   * Refuses all that wait, and calls `cancel` for each.
   *
   * @param {unknown} error
   * @param {(id: number) => void} cancel
   */
  refuseWaiting(error, cancel) {
    for (const [id, { reject }] of [...this.#waiting]) {
      reject?.(error)
      this.#waiting.delete(id)
      cancel(id)
    }
  }

  /**
   * Ends a lease. Returns whether there was one.
   *
   * @param {number} id
   */
  release(id) {
    return this.#grants.delete(id)
  }

  /** @param {unknown} reason */
  warnLeases(reason) {
    for (const grant of this.#grants.values()) grant.warn(reason)
  }

  /** @param {unknown} reason */
  endLeases(reason) {
    for (const [id, grant] of [...this.#grants]) {
      grant.end(reason)
      this.#grants.delete(id)
    }
  }
}

module.exports = { Requests }
