'use strict'

// The native manager's handle. All parts of one MemoryManager share one object, so that `dispose` closes it for all of
// them.

const { memoryError } = require('./errors.js')

class ManagerHandle {
  #value
  #closing = false

  /** @param {number} value the native handle */
  constructor(value) {
    this.#value = value
  }

  /** The native handle; 0 after `close`. */
  get value() {
    return this.#value
  }

  /** Whether the manager was disposed, or is being disposed. */
  get closed() {
    return this.#closing
  }

  /** Returns the native handle, or throws ERR_MANAGER_DISPOSED. */
  open() {
    if (this.#closing) throw disposedError()
    return this.#value
  }

  /** Refuses callers from now on. The manager's parts have the handle until `close`. */
  startClosing() {
    this.#closing = true
  }

  close() {
    this.#closing = true
    this.#value = 0
  }
}

const disposedError = () => memoryError('ERR_MANAGER_DISPOSED', 'this MemoryManager was disposed')

module.exports = { ManagerHandle, disposedError }
