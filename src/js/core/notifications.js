'use strict'

// Collects the native part's notifications for one manager: warnings of its limits, and samples that need a stack.

const native = require('./binding.js')
const { notifications } = require('./fast-path.js')

/** @typedef {import('../types/limits.js').MemoryWarning} MemoryWarning */

class Notifications {
  #handle
  #events
  #profiling
  /** The process-wide count at the last poll. */
  #seen = notifications[0]

  /**
   * @param {import('./manager-handle.js').ManagerHandle} handle
   * @param {import('./manager-events.js').ManagerEvents} events
   * @param {{ sampled(): void }} profiling
   */
  constructor(handle, events, profiling) {
    this.#handle = handle
    this.#events = events
    this.#profiling = profiling
  }

  /**
   * Collects new notifications; called after every allocation. Returns the count, for callers that compare it
   * themselves.
   */
  poll() {
    if (notifications[0] !== this.#seen) {
      this.#seen = notifications[0]
      native
        .takeWarnings(this.#handle.value)
        .forEach((warning) => this.#events.warn(/** @type {MemoryWarning} */ (warning)))
      this.#profiling.sampled()
    }
    return this.#seen
  }
}

module.exports = { Notifications }
