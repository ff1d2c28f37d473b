'use strict'

// The asynchronous methods of `MemoryManager`, which wait for drivers on other threads. Each leaves the work to its
// chapter.

const load = require('./chapters.js')

/**
 * @typedef {import('./types/manager.js').MemoryManager} MemoryManager
 * @typedef {import('./manager-host.js').ManagerHost} ManagerHost
 */

/**
 * Gives `MemoryManager` its asynchronous methods.
 *
 * @param {{ prototype: MemoryManager }} constructor
 * @param {(manager: MemoryManager) => ManagerHost} hostOf throws a TypeError for any other object
 */
function defineAsyncTwins({ prototype }, hostOf) {
  /** @type {Partial<MemoryManager> & ThisType<MemoryManager>} */
  const methods = {
    async allocateNPUMemoryAsync(size, options) {
      return hostOf(this).allocator.allocateNpuAsync(size, options)
    },

    async syncToDeviceAsync(buffer, offset, length) {
      await hostOf(this).allocator.syncAsync(buffer, true, offset, length)
    },

    async syncFromDeviceAsync(buffer, offset, length) {
      await hostOf(this).allocator.syncAsync(buffer, false, offset, length)
    },

    async importDmaBufAsync(fd, options) {
      return load.sharing().importDmaBufAsync(hostOf(this), fd, options)
    },

    async adoptAsync(token, options) {
      return load.sharing().adoptAsync(hostOf(this), token, options, this)
    },

    async createMemoryPoolAsync(options) {
      const { createPoolAsync } = load.createPool()
      return /** @type {any} */ (createPoolAsync(hostOf(this), options))
    },

    async allocateFromPoolAsync(pool, size, options) {
      const { handle, pools } = hostOf(this)
      handle.open()
      return pools.resolve(pool).allocateBufferAsync(size, options)
    },

    /**
     * @param {any} spec
     * @param {any} options
     * @returns {Promise<any>}
     */
    async createInferenceBuffersAsync(spec, options) {
      hostOf(this).handle.open()
      return load.inference().makeInferenceBuffersAsync(this, spec, options)
    },

    async disposeAsync(options) {
      await hostOf(this).disposeAsync(options)
    },
  }
  for (const [name, value] of Object.entries(methods)) {
    Object.defineProperty(prototype, name, { value, configurable: true, writable: true })
  }
}

module.exports = { defineAsyncTwins }
