'use strict'

// `SimulatedNPU`: a program's stand-in for jobs of the NPU. It reads and writes memory as the simulated device does,
// past the CPU's caches.

const { isTypedArray, isDataView } = require('node:util/types')
const native = require('../core/binding.js')
const { publicClass } = require('../core/border.js')
const { memoryError } = require('../core/errors.js')
const { formatValue, integer, invalid } = require('../core/options.js')

/**
 * @typedef {object} Finder
 * @property {(value: unknown) => ArrayBuffer} liveBuffer
 * @property {(buffer: ArrayBuffer) => number | undefined} handleAmongShared
 * @typedef {object} Host the parts of a manager
 * @property {import('../core/manager-handle.js').ManagerHandle} handle
 * @property {import('./missing-syncs.js').MissingSyncs | null} missingSyncs
 * @property {Finder} allocator
 */

/** @type {WeakMap<object, Host>} */
const hosts = new WeakMap()

/** @type {(manager: object, host: Host) => unknown} */
const offerHost = (manager, host) => hosts.set(manager, host)

class SimulatedNPU {
  #host

  /** @param {import('../types/manager.js').MemoryManager} manager */
  constructor(manager) {
    const host = typeof manager === 'object' && manager !== null ? hosts.get(manager) : undefined
    if (host === undefined) throw invalid(`SimulatedNPU needs a MemoryManager, not ${formatValue(manager)}`)
    host.handle.open()
    if (!manager.device.simulated) {
      const message = `"${manager.device.backend}" is a real device: only a runtime gives it jobs`
      throw memoryError('ERR_UNSUPPORTED', message, { hint: "open the manager with backend: 'simulated'" })
    }
    this.#host = host
  }

  /**
   * @param {unknown} buffer
   * @param {number} [offset]
   * @param {number} [length]
   * @returns {Uint8Array}
   */
  read(buffer, offset = 0, length) {
    const [handle, live, id] = this.#live(buffer)
    integer('offset', offset, 0)
    if (length !== undefined) integer('length', length, 0)
    const bytes = native.deviceRead(handle, live, offset, length, id)
    this.#host.missingSyncs?.check(live, id)
    return bytes
  }

  /**
   * @param {unknown} buffer
   * @param {ArrayBufferView} data
   * @param {number} [offset]
   */
  write(buffer, data, offset = 0) {
    const [handle, live, id] = this.#live(buffer)
    if (!isTypedArray(data) && !isDataView(data))
      throw invalid(`data must be a TypedArray or a DataView, not ${formatValue(data)}`)
    integer('offset', offset, 0)
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    native.deviceWrite(handle, live, offset, bytes, id)
    this.#host.missingSyncs?.check(live, id)
  }

  /**
   * @param {unknown} value
   * @returns {[number, ArrayBuffer, number | undefined]}
   */
  #live(value) {
    const { handle, allocator } = this.#host
    const native = handle.open()
    const buffer = allocator.liveBuffer(value)
    return [native, buffer, allocator.handleAmongShared(buffer)]
  }

  static {
    publicClass(SimulatedNPU, (value) => #host in value)
  }
}

module.exports = { SimulatedNPU, offerHost }
