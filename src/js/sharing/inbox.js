'use strict'

// Dma-bufs from process to process.

const native = require('../core/binding.js')
const { memoryError } = require('../core/errors.js')
const { Errands } = require('../core/async-tasks.js')
const { check, integer, invalid, schemas, shown } = require('../core/options.js')

/** Inboxes that were dropped without `close`. */
const dropped = new FinalizationRegistry((handle) => native.closeInbox(handle))

class DmaBufInbox {
  /** The native inbox; 0 once closed. */
  #handle = 0
  #path
  #errands = new Errands()

  constructor(path) {
    this.#path = text('path', path)
    this.#handle = native.openInbox(path)
    dropped.register(this, this.#handle, this)
  }

  get path() {
    return this.#path
  }

  get closed() {
    return this.#handle === 0
  }

  async receive(options) {
    const { signal } = check('receive', options, schemas.receive)
    for (;;) {
      signal?.throwIfAborted()
      if (this.#handle === 0) throw closedError()
      const letter = native.takeLetter(this.#handle)
      if (letter) return letter
      try {
        await this.#errands.wait(() => native.awaitLetter(this.#handle), signal)
      } catch (reason) {
        // A thread still waits for it, and would keep the process alive.
        if (this.#handle !== 0) native.nudgeInbox(this.#handle)
        throw reason
      }
    }
  }

  close() {
    if (this.#handle === 0) return
    dropped.unregister(this)
    native.closeInbox(this.#handle)
    this.#handle = 0
    this.#errands.end(closedError())
  }
}

async function sendDmaBuf(path, fd, message = '') {
  text('path', path)
  integer('fd', fd, 0, 2 ** 31 - 1)
  if (typeof message !== 'string') throw invalid(`message must be a string, not ${shown(message)}`)
  await new Errands().wait(() => native.sendDmaBuf(path, fd, message))
}

function closeDmaBuf(fd) {
  integer('fd', fd, 0, 2 ** 31 - 1)
  native.closeDmaBuf(fd)
}

function text(name, value) {
  if (typeof value === 'string' && value !== '') return value
  throw invalid(`${name} must be a string that is not empty, not ${shown(value)}`)
}

const closedError = () => memoryError('ERR_BUFFER_FREED', 'this inbox was closed')

if (Symbol.dispose !== undefined) {
  Object.defineProperty(DmaBufInbox.prototype, Symbol.dispose, {
    value() {
      this.close()
    },
    configurable: true,
    writable: true,
  })
}

module.exports = { DmaBufInbox, closeDmaBuf, sendDmaBuf }
