'use strict'

// The package's `node:diagnostics_channel` channels, for APM tools, loggers and tests.
//
// A channel without subscribers costs one test of `hasSubscribers`; messages are made only behind it. A message is
// published once the operation is complete and consistent, so that a subscriber may call anything. A subscriber that
// throws breaks nothing here: the runtime reports it as an uncaught exception.

const { channel } = require('node:diagnostics_channel')
const { MemoryError } = require('./errors.js')

const channels = {
  allocate: channel('rkllm-memory:allocate'),
  free: channel('rkllm-memory:free'),
  fail: channel('rkllm-memory:fail'),
  warning: channel('rkllm-memory:warning'),
  model: channel('rkllm-memory:model'),
}

/** Errors of the caller, which are no failed requests: a wrong argument, or a call after `dispose`. */
const CALLER_ERRORS = new Set(['ERR_INVALID_ARG_TYPE', 'ERR_MANAGER_DISPOSED'])

/**
 * @typedef {import('../types/allocations.js').MemoryKind} MemoryKind
 * @typedef {import('../types/diagnostics-channels.js').AllocationMessage} AllocationMessage
 * @typedef {import('../types/diagnostics-channels.js').FailMessage} FailMessage
 */

/** Publishes one manager's messages. */
class ChannelPublisher {
  #manager
  #pools
  #buffers
  #info

  /**
   * @param {import('../types/manager.js').MemoryManager} manager
   * @param {{ byHandle(handle: number): { name: string, kind: MemoryKind } | undefined }} pools
   * @param {{ isMovable(buffer: ArrayBuffer): boolean }} buffers
   * @param {(buffer: ArrayBuffer) => import('../types/allocations.js').BufferInfo} info describes a buffer, also while
   * the manager is being disposed
   */
  constructor(manager, pools, buffers, info) {
    this.#manager = manager
    this.#info = info
    this.#pools = pools
    this.#buffers = buffers
  }

  /**
   * Publishes that a new buffer was handed out.
   *
   * @param {ArrayBuffer} buffer
   */
  allocated(buffer) {
    const message = channels.allocate.hasSubscribers ? this.#messageOf(buffer) : null
    if (message !== null) channels.allocate.publish(message)
  }

  /**
   * Returns the message for `freed`, made while the buffer can still be described; null without subscribers.
   *
   * @param {ArrayBuffer} buffer
   */
  freeing(buffer) {
    return channels.free.hasSubscribers ? this.#messageOf(buffer) : null
  }

  /** @param {AllocationMessage | null} message */
  freed(message) {
    if (message !== null) channels.free.publish(message)
  }

  /**
   * Publishes the message of a block that has no buffer.
   *
   * @param {import('node:diagnostics_channel').Channel} channel
   * @param {number} pool
   * @param {{ size: number, id: number, movable: boolean }} block
   * @param {string | null} [tag]
   */
  block(channel, pool, { size, id, movable }, tag = null) {
    const { kind, name } = /** @type {{ kind: MemoryKind, name: string }} */ (this.#pools.byHandle(pool))
    channel.publish({ manager: this.#manager, kind, size, tag, pool: name, id, movable })
  }

  /**
   * Publishes a refused request, unless the caller aborted it. Returns the error.
   *
   * @param {unknown} error
   * @param {Partial<Omit<FailMessage, 'manager' | 'error'>>} wanted
   * @param {number} [handle] the pool's, for a request of a pool
   */
  refused(error, wanted, handle) {
    if (channels.fail.hasSubscribers && error instanceof MemoryError && !CALLER_ERRORS.has(error.code)) {
      const of = handle === undefined ? undefined : this.#pools.byHandle(handle)
      const { kind = of?.kind ?? null, size = null, tag = null, pool = of?.name ?? null } = wanted
      channels.fail.publish({ manager: this.#manager, kind, size, tag, pool, error })
    }
    return error
  }

  /**
   * @param {ArrayBuffer} buffer
   * @returns {AllocationMessage | null}
   */
  #messageOf(buffer) {
    let info
    try {
      info = this.#info(buffer)
    } catch {
      // Another manager's buffer, for example: freeing it fails with the reason. A message that cannot be made must not
      // fail the call.
      return null
    }
    const { kind, size, tag, pool, id } = info
    return { manager: this.#manager, kind, size, tag, pool, id, movable: this.#buffers.isMovable(buffer) }
  }
}

module.exports = { ChannelPublisher, channels }
