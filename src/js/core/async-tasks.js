'use strict'

// Promises for work on another thread. A promise ends early when the caller aborts or the manager is disposed; the
// native part then gives back the result that still arrives.

const native = require('./binding.js')

class AsyncTasks {
  /**
   * Ends each running task.
   *
   * @type {Set<(reason: unknown) => void>}
   */
  #running = new Set()

  /**
   * Starts a task and waits for its result.
   *
   * @param {() => { promise: Promise<any>, task: number }} start
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  run(start, signal) {
    return new Promise((resolve, reject) => {
      const { promise, task } = start()
      const end = (/** @type {unknown} */ reason) => {
        finished()
        native.cancelTask(task)
        reject(reason)
      }
      const aborted = () => end(signal?.reason)
      const finished = () => {
        this.#running.delete(end)
        signal?.removeEventListener('abort', aborted)
      }
      this.#running.add(end)
      signal?.addEventListener('abort', aborted, { once: true })
      promise.then(
        (result) => (finished(), resolve(result)),
        (error) => (finished(), reject(error)),
      )
    })
  }

  /**
   * Ends all running tasks: their promises reject with `reason`.
   *
   * @param {unknown} reason
   */
  end(reason) {
    for (const end of [...this.#running]) end(reason)
  }
}

module.exports = { AsyncTasks }
