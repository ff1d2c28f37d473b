'use strict'

// Emits a manager's events. Most are deferred to the next tick: a listener may call anything, and must not run inside
// an allocation.

const { channels } = require('./diagnostics-channels.js')
const { nextTick } = require('./runtime.js')

class ManagerEvents {
  #manager

  /** @param {import('../types/manager.js').MemoryManager} manager */
  constructor(manager) {
    this.#manager = manager
  }

  /** @param {string} name */
  listenedTo(name) {
    return this.#manager.listenerCount(name) > 0
  }

  /**
   * @param {string} name
   * @param {unknown} payload
   */
  emit(name, payload) {
    this.#manager.emit(name, payload)
  }

  /**
   * @param {string} name
   * @param {unknown} payload
   */
  emitLater(name, payload) {
    nextTick(() => this.#manager.emit(name, payload))
  }

  /**
   * Publishes a warning on its channel and emits it.
   *
   * @param {import('../types/limits.js').MemoryWarning} warning
   */
  warn(warning) {
    nextTick(() => {
      if (channels.warning.hasSubscribers) channels.warning.publish({ manager: this.#manager, ...warning })
      this.#manager.emit('warning', warning)
    })
  }
}

module.exports = { ManagerEvents }
