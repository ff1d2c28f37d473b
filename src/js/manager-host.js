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
const { offerHost } = require('./devices/simulated-npu.js')
const { Limits } = require('./limits/limits.js')
const { ProcessLimits } = require('./limits/process-limits.js')
const { PoolRegistry } = require('./pools/pool-registry.js')
const { Compactor } = require('./reclaim/compactor.js')
const { Reclaimer } = require('./reclaim/reclaimer.js')

class ManagerHost {
  #close = native.closeManager
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
    this.publisher = new ChannelPublisher(manager, this.pools, this.buffers)
    this.notifications = new Notifications(this.handle, this.events, {
      sampled: () => this.#profiling?.sampled(),
    })
    this.limits = new Limits(this.handle, this.notifications)
    this.processLimits = new ProcessLimits(
      () => native.processGauges(this.handle.value),
      (warning) => this.events.warn(warning),
    )
    this.compactor = new Compactor(cleanup, this.buffers, this.events)
    this.reclaimer = new Reclaimer(cleanup, this)
    this.waits = new Waits(this.handle)
    this.allocator = new Allocator(this)
    const { handle, events, allocator } = this
    const describe = (/** @type {ArrayBuffer} */ buffer) => allocator.describe(buffer)
    this.missingSyncs = checkSync
      ? new (load.missingSyncs().MissingSyncs)({ handle, events, describe, stackHere: load.stack().stackHere })
      : null
    allocator.missingSyncs = this.missingSyncs
    offerHost(manager, this)
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

  /** Frees all buffers, ends all pools and background work, and closes the native manager. */
  dispose() {
    const handle = this.handle.value
    this.#profiling?.end()
    this.compactor.end()
    this.reclaimer.end()
    this.tasks.end(disposedError())
    const publishFrees = this.allocator.detachAll()
    this.waits.end()
    this.handle.close()
    this.buffers.clear()
    this.pools.end()
    this.#close(handle)
    publishFrees()
    this.#pendingFrees?.end()
  }
}

module.exports = { ManagerHost }
