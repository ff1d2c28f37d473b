'use strict'

// Sends dma-bufs from process to process, over a Unix socket.

const native = require('../core/binding.js')
const { publicClass } = require('../core/border.js')
const { AsyncTasks } = require('../core/async-tasks.js')
const { defineDispose } = require('../core/disposable.js')
const { memoryError } = require('../core/errors.js')
const { check, integer, invalid, kinds, formatValue } = require('../core/options.js')
const { setImmediate } = require('../core/runtime.js')

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
      const message = await this.#take()
      if (message) return message
      try {
        await this.#tasks.run(() => native.awaitMessage(this.#handle), signal)
      } catch (reason) {
        // Ends the native wait, which would keep the process alive.
        if (this.#handle !== 0) native.wakeInbox(this.#handle)
        throw reason
      }
    }
  }

  async #take() {
    try {
      return native.takeMessage(this.#handle)
    } catch (error) {
      // The message stays queued: a caller that tries again at once would never let the event loop close a descriptor.
      if (/** @type {any} */ (error).code === 'ERR_TOO_MANY_FDS') await nextTurn()
      throw error
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

/** The properties of a part of a dma-buf. A received one has its message too, which is not sent on. */
const pieceProperties = {
  fd: kinds.integer(0, 2 ** 31 - 1),
  offset: kinds.integer(0),
  size: kinds.integer(1),
  message: kinds.string,
}

/**
 * @param {string} path
 * @param {number | Partial<import('../types/sharing.js').DmaBufPiece>} piece
 */
async function sendDmaBuf(path, piece, message = '') {
  nonEmptyString('path', path)
  const { fd, offset = 0, size } =
    typeof piece === 'object' ? check('sendDmaBuf: the piece', piece, pieceProperties) : { fd: piece }
  integer('fd', fd, 0, 2 ** 31 - 1)
  if (typeof message !== 'string') throw invalid(`message must be a string, not ${formatValue(message)}`)
  await new AsyncTasks().run(() => native.sendDmaBuf(path, /** @type {number} */ (fd), offset, size, message))
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

const nextTurn = () => new Promise((resolve) => setImmediate(resolve))

const closedError = () => memoryError('ERR_BUFFER_FREED', 'this inbox was closed')

module.exports = { DmaBufInbox, closeDmaBuf, sendDmaBuf }
