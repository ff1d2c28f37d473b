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
   * Starts a task and waits for its result. `take` makes the promise's value of it. `giveBack` frees a result that
   * reaches JavaScript after the end.
   *
   * @template [R=any]
   * @param {() => { promise: Promise<any>, task: number }} start
   * @param {AbortSignal} [signal]
   * @param {(result: any) => R} [take]
   * @param {(result: any) => void} [giveBack]
   * @returns {Promise<R>}
   */
  run(start, signal, take = asItIs, giveBack = asItIs) {
    return new Promise((resolve, reject) => {
      const { promise, task } = start()
      let over = false
      const end = (/** @type {unknown} */ reason) => {
        over = true
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
      const settled = (/** @type {any} */ result) => {
        if (over) return void giveBack(result)
        finished()
        resolve(take(result))
      }
      // After the end, the promise has rejected already: its error is that of a result which its manager's end freed.
      promise.then(settled).catch((error) => (finished(), reject(error)))
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

const asItIs = (/** @type {any} */ result) => result

module.exports = { AsyncTasks }
