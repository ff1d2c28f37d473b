'use strict'

// What this package tells whoever subscribes to `node:diagnostics_channel`: APM tools, loggers, tests.
//
// While nobody subscribes, a channel costs the test of `hasSubscribers`; messages are made only behind it. They are published when
// everything is done and consistent, so that a subscriber may call anything. One that throws breaks nothing here: the runtime
// reports it as an uncaught exception.

const { channel } = require('node:diagnostics_channel')
const { MemoryError } = require('./errors.js')

const channels = {
  allocate: channel('rkllm-memory:allocate'),
  free: channel('rkllm-memory:free'),
  fail: channel('rkllm-memory:fail'),
  warning: channel('rkllm-memory:warning'),
}

/** What a buffer is the buffer of: a block whose id is its address. Of a movable one it is `{ id, movable: true }`. */
const PLACED = Object.freeze({ movable: false })

/** Not for want of anything: the call was wrong in itself, or came too late. */
const OWN_FAULTS = new Set(['ERR_INVALID_ARG_TYPE', 'ERR_MANAGER_DISPOSED'])

/** What one manager tells. */
class Teller {
  #manager
  #poolAt
  #blockOf

  /**
   * @param {object} manager
   * @param {(handle: number) => { name: string, kind: string } | undefined} poolAt its pool by the native handle
   * @param {(id: number) => { id?: number, movable: boolean } | undefined} blockOf what a buffer, by its id, is the buffer of
   */
  constructor(manager, poolAt, blockOf) {
    this.#manager = manager
    this.#poolAt = poolAt
    this.#blockOf = blockOf
  }

  /** A buffer that was not there before. */
  allocated(buffer) {
    const message = channels.allocate.hasSubscribers ? this.#messageOf(buffer) : null
    if (message !== null) channels.allocate.publish(message)
  }

  /** What `freed` will tell of a buffer: it has to be asked before. null where nobody wants to know. */
  freeing(buffer) {
    return channels.free.hasSubscribers ? this.#messageOf(buffer) : null
  }

  freed(message) {
    if (message !== null) channels.free.publish(message)
  }

  /** Of a block that has no buffer. */
  block(channel, pool, { size, id, movable }, tag = null) {
    const { kind, name } = this.#poolAt(pool)
    channel.publish({ manager: this.#manager, kind, size, tag, pool: name, id, movable })
  }

  /** Of a request that was refused, and not called off; returns the error. */
  refused(error, wanted, handle) {
    if (channels.fail.hasSubscribers && error instanceof MemoryError && !OWN_FAULTS.has(error.code)) {
      const of = handle === undefined ? undefined : this.#poolAt(handle)
      const { kind = of?.kind ?? null, size = null, tag = null, pool = of?.name ?? null } = wanted
      channels.fail.publish({ manager: this.#manager, kind, size, tag, pool, error })
    }
    return error
  }

  #messageOf(buffer) {
    let info
    try {
      info = this.#manager.describe(buffer)
    } catch {
      // Not this manager's, say: whoever frees it will be told. A message that cannot be made is no reason to fail.
      return null
    }
    const { kind, size, tag, pool, id, address } = info
    const block = this.#blockOf(id)
    const name = block === undefined ? id : (block.id ?? Number(address))
    return { manager: this.#manager, kind, size, tag, pool, id: name, movable: block?.movable ?? false }
  }
}

module.exports = { PLACED, Teller, channels }
