'use strict'

// Sends dma-bufs from process to process, over a Unix socket.

const native = require('../core/binding.js')
const { publicClass } = require('../core/border.js')
const { AsyncTasks } = require('../core/async-tasks.js')
const { defineDispose } = require('../core/disposable.js')
const { memoryError } = require('../core/errors.js')
const { check, integer, invalid, kinds, formatValue } = require('../core/options.js')

/** Closes inboxes that were dropped without `close`. */
const dropped = new FinalizationRegistry((/** @type {number} */ handle) => native.closeInbox(handle))

class DmaBufInbox {
  /** The native inbox; 0 once closed. */
  #handle = 0
  #path
  #tasks = new AsyncTasks()

  /** @param {string} path */
  constructor(path) {
    this.#path = nonEmptyString('path', path)
    this.#handle = native.openInbox(path)
    dropped.register(this, this.#handle, this)
  }

  get path() {
    return this.#path
  }

  get closed() {
    return this.#handle === 0
  }

  /** @param {{ signal?: AbortSignal }} [options] */
  async receive(options) {
    const { signal } = check('receive', options, { signal: kinds.signal })
    for (;;) {
      if (signal?.aborted) throw signal.reason
      if (this.#handle === 0) throw closedError()
      const message = native.takeMessage(this.#handle)
      if (message) return message
      try {
        await this.#tasks.run(() => native.awaitMessage(this.#handle), signal)
      } catch (reason) {
        // Wakes the thread that still waits, which would keep the process alive.
        if (this.#handle !== 0) native.wakeInbox(this.#handle)
        throw reason
      }
    }
  }

  close() {
    if (this.#handle === 0) return
    dropped.unregister(this)
    native.closeInbox(this.#handle)
    this.#handle = 0
    this.#tasks.end(closedError())
  }

  static {
    defineDispose(DmaBufInbox, function dispose() {
      this.close()
    })
    publicClass(DmaBufInbox, (value) => #handle in value)
  }
}

/**
 * @param {string} path
 * @param {number} fd
 */
async function sendDmaBuf(path, fd, message = '') {
  nonEmptyString('path', path)
  integer('fd', fd, 0, 2 ** 31 - 1)
  if (typeof message !== 'string') throw invalid(`message must be a string, not ${formatValue(message)}`)
  await new AsyncTasks().run(() => native.sendDmaBuf(path, fd, message))
}

/** @param {number} fd */
function closeDmaBuf(fd) {
  integer('fd', fd, 0, 2 ** 31 - 1)
  native.closeDmaBuf(fd)
}

/** @type {import('../core/options.js').Validator<string>} */
function nonEmptyString(name, value) {
  if (typeof value === 'string' && value !== '') return value
  throw invalid(`${name} must be a string that is not empty, not ${formatValue(value)}`)
}

const closedError = () => memoryError('ERR_BUFFER_FREED', 'this inbox was closed')

module.exports = { DmaBufInbox, closeDmaBuf, sendDmaBuf }
