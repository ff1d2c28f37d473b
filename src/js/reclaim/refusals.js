'use strict'

// Counts and publishes the requests that failed after every try. The native part leaves refusals for exhaustion to this
// file, because reclaiming memory may resolve them: one request is one refusal, however often it was tried.

const native = require('../core/binding.js')
const { isExhaustion } = require('./exhaustion.js')

/**
 * @typedef {object} Wanted the request
 * @property {'npu' | 'system' | null} [kind]
 * @property {number} [size]
 * @property {string} [tag]
 * @property {string} [pool]
 * @property {string} [shared] the native token, for an adoption: its memory's kind and tag count
 */

class Refusals {
  #handle
  #publisher

  /**
   * @param {object} parts of the manager
   * @param {import('../core/manager-handle.js').ManagerHandle} parts.handle
   * @param {import('../core/diagnostics-channels.js').ChannelPublisher} parts.publisher
   */
  constructor({ handle, publisher }) {
    this.#handle = handle
    this.#publisher = publisher
  }

  /**
   * Counts and publishes a request that failed for good. Returns the error.
   *
   * @param {unknown} error
   * @param {Wanted} wanted
   * @param {number} [pool] the native pool, for a request of a slice
   */
  final(error, wanted, pool) {
    if (isExhaustion(error)) this.#count(wanted, pool)
    return this.#publisher.refused(error, wanted, pool)
  }

  /**
   * @param {Wanted} wanted
   * @param {number} [pool]
   */
  #count({ kind, size = 0, tag, shared }, pool) {
    const manager = this.#handle.value
    if (pool !== undefined) native.poolCountRefused(pool, size, tag)
    else if (shared !== undefined) native.countRefusedAdoption(manager, shared)
    else native.countRefused(manager, kind === 'npu', size, tag)
  }
}

module.exports = { Refusals }
