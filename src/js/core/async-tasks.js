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
  async run(start, signal, take = asItIs, giveBack = asItIs) {
    /** @type {{ reason: unknown } | null} */
    let over = null
    let finished = () => {}
    try {
      const result = await new Promise((resolve, reject) => {
        const { promise, task } = start()
        const end = (/** @type {unknown} */ reason) => {
          over = { reason }
          finished()
          native.cancelTask(task)
          reject(reason)
        }
        const aborted = () => end(signal?.reason)
        finished = () => {
          this.#running.delete(end)
          signal?.removeEventListener('abort', aborted)
        }
        this.#running.add(end)
        signal?.addEventListener('abort', aborted, { once: true })
        const settled = (/** @type {any} */ late) => (over === null ? resolve(late) : void giveBack(late))
        // After the end, the promise has rejected already: its error is that of a result which its manager's end freed.
        promise.then(settled).catch(reject)
      })
      // The end may come between the two turns of the promise. `take` runs in an awaiting function, so that the engine
      // knows the frames that await it.
      if (over === null) return take(result)
      giveBack(result)
      throw /** @type {{ reason: unknown }} */ (over).reason
    } finally {
      finished()
    }
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
