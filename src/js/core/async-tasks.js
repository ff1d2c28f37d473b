'use strict'

// Promises for what another thread does. They end early when the caller aborts or the manager is disposed; what comes of the
// errand then, the native part gives back.

const native = require('./binding.js')

class Errands {
  /** How to end each that is under way. */
  #underWay = new Set()

  /**
   * @param {() => { promise: Promise<any>, errand: number }} send
   * @param {AbortSignal} [signal]
   */
  wait(send, signal) {
    return new Promise((resolve, reject) => {
      const { promise, errand } = send()
      const end = (reason) => {
        settled()
        native.callOff(errand)
        reject(reason)
      }
      const aborted = () => end(signal.reason)
      const settled = () => {
        this.#underWay.delete(end)
        signal?.removeEventListener('abort', aborted)
      }
      this.#underWay.add(end)
      signal?.addEventListener('abort', aborted, { once: true })
      promise.then(
        (result) => (settled(), resolve(result)),
        (error) => (settled(), reject(error)),
      )
    })
  }

  /** Ends all that are under way. */
  end(reason) {
    for (const end of [...this.#underWay]) end(reason)
  }
}

module.exports = { Errands }
