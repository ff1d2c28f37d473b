'use strict'

// The parts of one MemoryManager. They call each other through this object, and pools and blocks call them.

const load = require('./chapters.js')
const native = require('./core/binding.js')
const { Allocator } = require('./allocation/allocator.js')
const { LiveBuffers } = require('./allocation/live-buffers.js')
const { Waits } = require('./allocation/waits.js')
const { AsyncTasks } = require('./core/async-tasks.js')
const { ChannelPublisher } = require('./core/diagnostics-channels.js')
const { ManagerEvents } = require('./core/manager-events.js')
const { ManagerHandle, disposedError } = require('./core/manager-handle.js')
const { Notifications } = require('./core/notifications.js')
const { check, kinds } = require('./core/options.js')
const { now, setImmediate } = require('./core/runtime.js')
const { offerHost } = require('./devices/simulated-npu.js')
const { Limits } = require('./limits/limits.js')
const { ProcessLimits } = require('./limits/process-limits.js')
const { PoolRegistry } = require('./pools/pool-registry.js')
const { Compactor } = require('./reclaim/compactor.js')
const { Refusals } = require('./reclaim/refusals.js')
const { Reclaimer } = require('./reclaim/reclaimer.js')

/** How long `disposeAsync` may block the event loop at a time, in ms. */
const SLICE_MS = 2

/**
 * @typedef {object} Disposal a disposal under way
 * @property {Iterator<ArrayBuffer>} left the buffers that are still to be detached
 * @property {Array<ReturnType<Allocator['detach']>>} messages of freed buffers, to publish at the end
 * @property {Promise<void>} [end] of `disposeAsync`
 */

class ManagerHost {
  #close = native.closeManager
  /** @type {Disposal | undefined} */
  #disposal
  /** Called when the disposal starts. */
  onDispose = () => {}
  /** The model residencies that are open. @type {Set<import('./residency/shell.js').Shell>} */
  residencies = new Set()
  /** @type {import('./allocation/async-allocations.js').AsyncAllocations | undefined} */
  #asyncAllocations
  /** @type {import('./allocation/pending-frees.js').PendingFrees | undefined} */
  #pendingFrees
  /** @type {import('./profiling/profiling.js').Profiling | undefined} */
  #profiling

  /**
   * @param {import('./types/manager.js').MemoryManager} manager
   * @param {number} nativeHandle
   * @param {import('./reclaim/reclaimer.js').ReclaimOptions & { defragmentAbove?: number | null }} cleanup
   * @param {boolean} [checkSync]
   */
  constructor(manager, nativeHandle, cleanup, checkSync = false) {
    this.handle = new ManagerHandle(nativeHandle)
    this.events = new ManagerEvents(manager)
    this.tasks = new AsyncTasks()
    this.buffers = new LiveBuffers()
    this.pools = new PoolRegistry()
    /** @type {(buffer: ArrayBuffer) => import('./types/allocations.js').BufferInfo} */
    const info = (buffer) => this.allocator.info(buffer)
    this.publisher = new ChannelPublisher(manager, this.pools, this.buffers, info)
    this.notifications = new Notifications(this.handle, this.events, {
      sampled: () => this.#profiling?.sampled(),
    })
    this.limits = new Limits(this.handle, this.notifications)
    this.processLimits = new ProcessLimits(
      () => native.processGauges(this.handle.value),
      (warning) => this.events.warn(warning),
    )
    this.refusals = new Refusals(this)
    this.compactor = new Compactor(cleanup, this.buffers, this.events)
    this.reclaimer = new Reclaimer(cleanup, this)
    this.waits = new Waits(this.handle)
    /** @type {Allocator} */
    this.allocator = new Allocator(this)
    const { handle, events, allocator } = this
    this.missingSyncs = checkSync
      ? new (load.missingSyncs().MissingSyncs)({ handle, events, describe: info, stackHere: load.stack().stackHere })
      : null
    allocator.missingSyncs = this.missingSyncs
    offerHost(manager, this)
  }

  /** The allocations that wait for drivers, from the first one on. */
  get asyncAllocations() {
    return (this.#asyncAllocations ??= new (load.asyncAllocations().AsyncAllocations)(this))
  }

  /** The frees that wait for a job, from the first `deallocateWhen` on. */
  get pendingFrees() {
    return (this.#pendingFrees ??= new (load.pendingFrees().PendingFrees)(this))
  }

  /** The profiling, from its first use on. */
  get profiling() {
    return (this.#profiling ??= new (load.profiling().Profiling)(this.handle, this.events))
  }

  /** Makes `dispose` leave pinned memory as it is: no program asks for the end, its thread does. */
  keepPinned() {
    this.#close = native.leaveManager
  }

  /**
   * Frees all buffers, ends all pools and background work, and closes the native manager. Completes a disposal that
   * has not come to that.
   */
  dispose() {
    if (this.handle.value === 0) return
    const disposal = (this.#disposal ??= this.#startDisposal())
    this.#detach(disposal, Infinity)
    this.#close(this.#finishDetaching())
    this.#disposed(disposal)
  }

  /**
   * Like `dispose`, in slices, and waits for the driver on another thread. An abort ends the wait alone.
   *
   * @param {unknown} options
   */
  async disposeAsync(options) {
    const { signal } = check('disposeAsync', options, { signal: kinds.signal })
    if (this.handle.value !== 0) {
      const disposal = (this.#disposal ??= this.#startDisposal())
      disposal.end ??= this.#disposeInSlices(disposal)
    }
    await unlessAborted(Promise.resolve(this.#disposal?.end), signal)
  }

  /** @returns {Disposal} */
  #startDisposal() {
    this.onDispose()
    for (const residency of this.residencies) residency.abandon()
    this.#profiling?.end()
    this.compactor.end()
    this.reclaimer.end()
    this.handle.startClosing()
    this.tasks.end(disposedError())
    this.pools.end()
    native.closePools(this.handle.value)
    this.#pendingFrees?.stop()
    return { left: this.allocator.detachable(), messages: [] }
  }

  /** @param {Disposal} disposal */
  async #disposeInSlices(disposal) {
    while (!this.#detach(disposal, SLICE_MS)) {
      await new Promise((resolve) => setImmediate(resolve))
      if (this.handle.value === 0) return // `dispose` has completed it
    }
    await native.closeManagerAsync(this.#finishDetaching()).promise
    this.#disposed(disposal)
  }

  /**
   * Detaches buffers for `ms`. Returns whether none is left.
   *
   * @param {Disposal} disposal
   * @param {number} ms
   */
  #detach({ left, messages }, ms) {
    for (const began = now(); ; ) {
      const { done, value: buffer } = left.next()
      if (done) return true
      messages.push(this.allocator.detach(buffer))
      if (now() - began >= ms) return false
    }
  }

  /** Returns the native handle, which no part of the manager uses any more. */
  #finishDetaching() {
    const handle = this.handle.value
    this.waits.end()
    this.handle.close()
    this.buffers.clear()
    return handle
  }

  /** @param {Disposal} disposal */
  #disposed({ messages }) {
    for (const message of messages) this.publisher.freed(message)
    this.#pendingFrees?.end()
  }
}

/**
 * Resolves with `promise`, unless an abort comes first.
 *
 * @param {Promise<void>} promise
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
function unlessAborted(promise, signal) {
  if (signal === undefined) return promise
  return new Promise((resolve, reject) => {
    const aborted = () => reject(signal.reason)
    if (signal.aborted) return aborted()
    signal.addEventListener('abort', aborted, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', aborted))
  })
}

module.exports = { ManagerHost }
