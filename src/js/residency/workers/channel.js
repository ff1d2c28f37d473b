'use strict'

// Messages over a socket. A frame is two lengths of four bytes, the JSON, and the bytes beside it:
//
//   bytes of the JSON | bytes of the parts | JSON { message, lengths of the parts } | parts

const { memoryError } = require('../../core/errors.js')
const { Buffer } = require('../../core/runtime.js')
const { decode, encode } = require('./codec.js')

const HEAD = 8
/** The largest frame: a peer that sends nonsense must not take all memory. */
const MAX_FRAME = 1 << 30

/** @typedef {import('./codec.js').Extras} Extras */

class Channel {
  #socket
  /** @type {Buffer[]} */
  #received = []
  #bytes = 0
  #extras
  #onMessage

  /**
   * @param {import('node:net').Socket} socket
   * @param {(message: any) => void} onMessage
   * @param {Extras} [extras]
   */
  constructor(socket, onMessage, extras) {
    this.#socket = socket
    this.#onMessage = onMessage
    this.#extras = extras
    socket.on('data', (chunk) => this.#take(/** @type {Buffer} */ (chunk)))
  }

  /**
   * Sends a message. Returns whether the socket has room for more.
   *
   * @param {object} message
   */
  send(message) {
    if (this.#socket.destroyed || this.#socket.writableEnded) return true
    /** @type {Uint8Array[]} */
    const parts = []
    const encoded = encode(message, parts, this.#extras)
    const json = Buffer.from(JSON.stringify([encoded, parts.map(({ length }) => length)]))
    const bytes = parts.reduce((sum, { length }) => sum + length, 0)
    if (json.length + bytes > MAX_FRAME)
      throw memoryError('ERR_OUT_OF_RANGE', `a message has ${json.length + bytes} bytes; at most ${MAX_FRAME} are sent`)
    const head = Buffer.alloc(HEAD)
    head.writeUInt32LE(json.length, 0)
    head.writeUInt32LE(bytes, 4)
    // Copies the parts: the caller may change them before the kernel has taken them.
    return this.#socket.write(Buffer.concat([head, json, ...parts]))
  }

  /** @param {Buffer} chunk */
  #take(chunk) {
    this.#received.push(chunk)
    this.#bytes += chunk.length
    for (;;) {
      const head = this.#peek(HEAD)
      if (head === null) return
      const [json, bytes] = [head.readUInt32LE(0), head.readUInt32LE(4)]
      if (json + bytes > MAX_FRAME) return void this.#socket.destroy()
      const frame = this.#peek(HEAD + json + bytes)
      if (frame === null) return
      const rest = frame.subarray(HEAD + json + bytes)
      this.#received = rest.length > 0 ? [rest] : []
      this.#bytes = rest.length
      this.#handle(frame.subarray(HEAD, HEAD + json), frame.subarray(HEAD + json, HEAD + json + bytes))
    }
  }

  /**
   * Returns all that was received, if it is that much.
   *
   * @param {number} wanted
   */
  #peek(wanted) {
    if (this.#bytes < wanted) return null
    if (this.#received.length > 1) this.#received = [Buffer.concat(this.#received)]
    return this.#received[0]
  }

  /**
   * @param {Buffer} json
   * @param {Buffer} bytes
   */
  #handle(json, bytes) {
    let message
    try {
      const [encoded, lengths] = JSON.parse(json.toString())
      let at = 0
      const parts = lengths.map((/** @type {number} */ length) => bytes.subarray(at, (at += length)))
      message = decode(encoded, parts, this.#extras)
    } catch {
      return void this.#socket.destroy()
    }
    this.#onMessage(message)
  }
}

module.exports = { Channel }
