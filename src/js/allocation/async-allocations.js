'use strict'

// Allocations that wait for a driver on another thread. At a limit, all of them reclaim memory and try again.

const { runFinalizers } = require('./finalizers.js')

/** How often an asynchronous allocation is tried before exhaustion is an error. */
const TRIES = 3

class AsyncAllocations {
  #handle
  #refusals
  #reclaimer

  /**
   * @param {object} parts of the manager
   * @param {import('../core/manager-handle.js').ManagerHandle} parts.handle
   * @param {import('../reclaim/refusals.js').Refusals} parts.refusals
   * @param {{ reclaimFor(error: unknown, pool?: number): Promise<boolean> }} parts.reclaimer
   */
  constructor({ handle, refusals, reclaimer }) {
    this.#handle = handle
    this.#refusals = refusals
    this.#reclaimer = reclaimer
  }

  /**
   * Calls `attempt`. If it fails for exhaustion, reclaims memory, lets the finalizers of dropped buffers run, and calls
   * it again.
   *
   * @template T
   * @param {() => T | Promise<T>} attempt
   * @param {import('../pools/pool-host.js').Wanted} wanted for the counters and the `fail` channel
   * @param {AbortSignal} [signal]
   * @param {number} [pool] the native pool that the allocation is for
   * @returns {Promise<T>}
   */
  async allocate(attempt, wanted, signal, pool) {
    for (let tries = 1; ; tries++) {
      if (signal?.aborted) throw signal.reason
      try {
        return await attempt()
      } catch (error) {
        if (tries === TRIES || this.#handle.closed || !(await this.#reclaimer.reclaimFor(error, pool))) {
          throw this.#refusals.final(error, wanted, pool)
        }
        await runFinalizers(signal)
      }
    }
  }
}

module.exports = { AsyncAllocations }
