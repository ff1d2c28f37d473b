'use strict'

// The native manager's handle. All parts of one MemoryManager share one object, so that `dispose` closes it for all of
// them.

const { memoryError } = require('./errors.js')

class ManagerHandle {
  #value

  /** @param {number} value the native handle */
  constructor(value) {
    this.#value = value
  }

  /** The native handle; 0 after `close`. */
  get value() {
    return this.#value
  }

  get closed() {
    return this.#value === 0
  }

  /** Returns the native handle, or throws ERR_MANAGER_DISPOSED. */
  open() {
    if (this.#value === 0) throw disposedError()
    return this.#value
  }

  close() {
    this.#value = 0
  }
}

const disposedError = () => memoryError('ERR_MANAGER_DISPOSED', 'this MemoryManager was disposed')

module.exports = { ManagerHandle, disposedError }
