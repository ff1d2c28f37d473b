'use strict'

// Allocates, describes and frees the buffers of one manager.

const { isArrayBuffer } = require('node:util/types')
const { npuAllocationAsync, npuRequest, systemRequest } = require('../core/allocation-options.js')
const native = require('../core/binding.js')
const buffers = require('../core/buffers.js')
const { memoryError } = require('../core/errors.js')
const { jsonable } = require('../core/json.js')
const { integer } = require('../core/options.js')

const { allocatorOf, arrayBufferOf, byteLengthOf, detachedError, handleOf, isBlock, remember, underlying } = buffers

/**
 * @typedef {import('../types/allocations.js').BufferInfo} BufferInfo
 * @typedef {import('../types/allocations.js').MemoryKind} MemoryKind
 * @typedef {import('../types/diagnostics-channels.js').AllocationMessage} AllocationMessage
 * @typedef {[buffer: ArrayBuffer, handle: number]} Made a new ArrayBuffer, and its native allocation
 */

class Allocator {
  #handle
  #async
  #tasks
  #buffers
  #notifications
  #processLimits
  #publisher
  #reclaimer
  /**
   * Reports syncs that the program missed, with `debug.checkSync`.
   *
   * @type {import('../devices/missing-syncs.js').MissingSyncs | null}
   */
  missingSyncs = null
  #waits
  /** Whether several buffers may have the same address, so that a buffer is found by its handle too. */
  #addressesShared = false

  /**
   * @param {object} parts of the manager
   * @param {import('../core/manager-handle.js').ManagerHandle} parts.handle
   * @param {import('./live-buffers.js').LiveBuffers} parts.buffers
   * @param {import('../core/notifications.js').Notifications} parts.notifications
   * @param {{ allocated(): void }} parts.processLimits
   * @param {import('../core/diagnostics-channels.js').ChannelPublisher} parts.publisher
   * @param {{ allocateWithReclaim<T>(allocate: () => T, wanted: object): T }} parts.reclaimer
   * @param {import('./async-allocations.js').AsyncAllocations} parts.asyncAllocations
   * @param {import('../core/async-tasks.js').AsyncTasks} parts.tasks
   * @param {import('./waits.js').Waits} parts.waits
   */
  constructor(parts) {
    const { handle, buffers, notifications, processLimits, publisher, reclaimer, tasks, waits } = parts
    this.#handle = handle
    // Made at the first use.
    this.#async = () => parts.asyncAllocations
    this.#tasks = tasks
    this.#buffers = buffers
    this.#notifications = notifications
    this.#processLimits = processLimits
    this.#publisher = publisher
    this.#reclaimer = reclaimer
    this.#waits = waits
  }

  /**
   * @param {number} size
   * @param {unknown} options
   */
  allocateNpu(size, options) {
    const handle = this.#handle.open()
    integer('size', size, 1)
    // The native part reads each property of a request, which takes longer than all else here.
    const request = options === undefined ? undefined : npuRequest('allocateNPUMemory', options)
    const allocate = () => native.allocateNpu(handle, size, request)
    return this.allocated(this.#reclaimer.allocateWithReclaim(allocate, { kind: 'npu', size, tag: request?.tag }))
  }

  /**
   * @param {number} size
   * @param {unknown} options
   * @returns {Promise<ArrayBuffer>}
   */
  async allocateNpuAsync(size, options) {
    this.#handle.open()
    integer('size', size, 1)
    const { signal, ...request } = npuRequest('allocateNPUMemoryAsync', options, npuAllocationAsync)
    const start = () => native.allocateNpuAsync(this.#handle.open(), size, request)
    const wanted = { kind: /** @type {const} */ ('npu'), size, tag: request.tag }
    return await this.#async().allocate(() => this.allocatedBy(start, signal), wanted, signal)
  }

  /**
   * @param {number} size
   * @param {unknown} options
   */
  allocateSystem(size, options) {
    const handle = this.#handle.open()
    integer('size', size, 1)
    const request = options === undefined ? undefined : systemRequest('allocateSystemMemory', options)
    const allocate = () => native.allocateSystem(handle, size, request)
    return this.allocated(this.#reclaimer.allocateWithReclaim(allocate, { kind: 'system', size, tag: request?.tag }))
  }

  /**
   * Hands out a new allocation's buffer and publishes it.
   *
   * @param {Made} made
   * @param {number} [pool]
   */
  allocated(made, pool) {
    const buffer = this.handOut(made, pool)
    this.#publisher.allocated(buffer)
    return buffer
  }

  /**
   * Hands out a buffer: of a new allocation, or of a block that had none.
   *
   * @param {Made} made
   * @param {number} [pool]
   * @param {boolean} [movable]
   */
  handOut([buffer, handle], pool, movable) {
    remember(buffer, handle)
    this.#buffers.add(handle, buffer, pool, movable)
    if (pool === undefined) this.#processLimits.allocated()
    this.#notifications.poll()
    return buffer
  }

  /**
   * @param {unknown} value
   * @param {MemoryKind} [kind] frees the buffer only if it is of this kind
   */
  deallocate(value, kind) {
    const handle = this.#handle.open()
    if (kind === undefined && isBlock(value)) {
      if (allocatorOf(value) !== this) {
        throw memoryError('ERR_UNKNOWN_BUFFER', 'this block is of a pool of another MemoryManager')
      }
      value.free()
      return
    }
    const buffer = this.liveBuffer(value)
    const reportMissing = this.missingSyncs?.beforeFree(buffer, this.handleAmongShared(buffer))
    const message = this.#publisher.freeing(buffer)
    // A buffer that transfer() made is first seen here: remembered, a second deallocate can say that it was freed.
    const freed = native.deallocate(handle, buffer, kind, this.handleAmongShared(buffer))
    if (freed === 0 || handleOf(buffer) !== freed) remember(buffer, freed)
    this.#buffers.delete(freed)
    this.#waits.started()
    reportMissing?.()
    this.#publisher.freed(message)
  }

  /**
   * Frees every buffer that can be freed, or every one of `pool`. Returns a function that publishes the frees
   * afterwards.
   *
   * @param {number} [pool]
   */
  detachAll(pool) {
    /** @type {Array<AllocationMessage | null>} */
    const messages = []
    for (const buffer of this.#buffers.reachable(pool)) messages.push(this.detach(buffer))
    this.#waits.started()
    return () => messages.forEach((message) => this.#publisher.freed(message))
  }

  /** @param {number} pool a native pool that has ended */
  poolEnded(pool) {
    this.#buffers.poolEnded(pool)
  }

  /** The buffers that `dispose` has to detach. */
  detachable() {
    return this.#buffers.reachable()
  }

  /**
   * Frees a buffer if that is possible. Returns the message to publish afterwards.
   *
   * @param {ArrayBuffer} buffer
   * @returns {AllocationMessage | null}
   */
  detach(buffer) {
    if (byteLengthOf(buffer) === 0) return null
    try {
      const reportMissing = this.missingSyncs?.beforeFree(buffer, this.handleAmongShared(buffer))
      const message = this.#publisher.freeing(buffer)
      this.#buffers.delete(native.deallocate(this.#handle.value, buffer, undefined, handleOf(buffer), true))
      reportMissing?.()
      return message
    } catch {
      // The runtime holds the buffer, or it is marked as untransferable: it stays attached and reads zeros from now on.
      return null
    }
  }

  /** @param {unknown} buffer */
  describe(buffer) {
    this.#handle.open()
    return this.info(buffer)
  }

  /**
   * Like `describe`, also while the manager is being disposed.
   *
   * @param {unknown} buffer
   */
  info(buffer) {
    const live = this.liveBuffer(buffer)
    const id = this.handleAmongShared(live)
    return jsonable(/** @type {BufferInfo} */ (native.describe(this.#handle.value, live, id)))
  }

  /** @param {unknown} value */
  owns(value) {
    const handle = this.#handle.open()
    if (isBlock(value)) return allocatorOf(value) === this && !value.freed
    const buffer = underlying(value)
    return isArrayBuffer(buffer) && native.owns(handle, buffer)
  }

  /**
   * @param {unknown} value
   * @param {boolean} toDevice
   * @param {number} [offset]
   * @param {number} [length]
   */
  sync(value, toDevice, offset, length) {
    const request = this.#syncRequest(value, toDevice, offset, length)
    native.sync(...request)
    this.missingSyncs?.check(request[1], this.handleAmongShared(request[1]))
  }

  /**
   * @param {unknown} value
   * @param {boolean} toDevice
   * @param {number} [offset]
   * @param {number} [length]
   */
  async syncAsync(value, toDevice, offset, length) {
    const request = this.#syncRequest(value, toDevice, offset, length)
    const place = this.missingSyncs?.place()
    await this.#tasks.run(() => native.syncAsync(...request))
    const [, buffer] = request
    if (byteLengthOf(buffer) > 0) this.missingSyncs?.check(buffer, this.handleAmongShared(buffer), place)
  }

  /**
   * The ArrayBuffer of `value`. Throws why, if it shows no bytes any more.
   *
   * @param {unknown} value
   */
  liveBuffer(value) {
    const buffer = arrayBufferOf(value)
    if (byteLengthOf(buffer) === 0) throw detachedError(buffer, native.isLive)
    return buffer
  }

  /** The manager shares memory from now on: several buffers may have one address. */
  markShared() {
    this.#addressesShared = true
  }

  /**
   * The handle of `buffer` where its address may not be enough. A buffer that transfer() made has none.
   *
   * @param {ArrayBuffer} buffer
   */
  handleAmongShared(buffer) {
    return this.#addressesShared ? handleOf(buffer) || undefined : undefined
  }

  /**
   * @param {unknown} value
   * @param {boolean} toDevice
   * @param {number | undefined} offset
   * @param {number | undefined} length
   * @returns {[number, ArrayBuffer, boolean, number, number | undefined]}
   */
  #syncRequest(value, toDevice, offset = 0, length) {
    const handle = this.#handle.open()
    const buffer = this.liveBuffer(value)
    integer('offset', offset, 0)
    if (length !== undefined) integer('length', length, 0)
    return [handle, buffer, toDevice, offset, length]
  }

  /**
   * Hands out what another thread allocates.
   *
   * @param {() => { promise: Promise<any>, task: number }} start
   * @param {AbortSignal} [signal]
   */
  allocatedBy(start, signal) {
    return this.#tasks.run(
      start,
      signal,
      (made) => this.allocated(made),
      (made) => this.giveBack(made),
    )
  }

  /**
   * Frees an allocation that its caller no longer takes.
   *
   * @param {Made} made
   */
  giveBack([buffer, handle]) {
    native.deallocate(this.#handle.open(), buffer, undefined, handle)
  }
}

module.exports = { Allocator }
