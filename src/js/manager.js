'use strict'

// `MemoryManager`: each method checks that the manager is open and leaves the rest to its chapter's folder.

const { EventEmitter } = require('node:events')
const { inspect } = require('node:util')
const { version } = require('../../package.json')
const load = require('./chapters.js')
const { publicClass } = require('./core/border.js')
const native = require('./core/binding.js')
const { defineAsyncDispose, defineDispose } = require('./core/disposable.js')
const { check, invalid, formatValue } = require('./core/options.js')
const { Limits } = require('./limits/limits.js')
const { defineAsyncTwins } = require('./manager-async.js')
const { ManagerHost } = require('./manager-host.js')
const { SIMULATED, managerOptions, slabOptions } = require('./manager-options.js')
const { offerProfile, profileOf } = require('./metrics/reader.js')
const pressure = require('./reclaim/pressure.js')

/** @typedef {import('./types/manager.js').MemoryManager} MemoryManagerType */

/** Abandons managers that were dropped without `dispose`: their device closes when their last buffer is collected. */
const dropped = new FinalizationRegistry((handle) => native.abandonManager(handle))

/** @type {import('./types/manager.js').BuildInfo} */
const buildInfo = Object.freeze({ ...native.buildInfo() })

class MemoryManager extends EventEmitter {
  #host
  /** @type {import('./types/devices.js').DeviceInfo} */
  #device

  /** @param {import('./types/manager.js').MemoryManagerOptions} [options] */
  constructor(options) {
    const checked = check('MemoryManager', options, managerOptions)
    super()
    const { backend = 'auto', device: node, simulated, slabs, debug } = checked
    const limits = Limits.check('MemoryManager: limits', checked.limits)
    const { manager: handle, device, warn } = native.openManager(backend, node, simulated, slabOptions(slabs, debug))
    this.#device = Object.freeze(/** @type {any} */ (device))
    this.#host = new ManagerHost(/** @type {any} */ (this), handle, checked.cleanup ?? {}, debug?.checkSync)
    dropped.register(this, handle, this.#host)
    pressure.watch(this.#host, handle)
    offerProfile(/** @type {any} */ (this), () => this.#host.profiling.profile(false))
    this.#host.limits.apply(limits)
    if (warn) process.emitWarning(SIMULATED, { code: 'RKLLM_SIMULATED_NPU' })
    if (checked.profiling) this.#host.profiling.start(checked.profiling === true ? {} : checked.profiling)
    const closeInspector = checked.inspect ? load.inspector().openInspector(/** @type {any} */ (this)) : () => {}
    this.#host.onDispose = () => {
      closeInspector()
      dropped.unregister(this.#host)
    }
  }

  static get version() {
    return version
  }

  static get buildInfo() {
    return buildInfo
  }

  get device() {
    return this.#device
  }

  get disposed() {
    return this.#host.handle.closed
  }

  // ── NPU memory

  /** @type {MemoryManagerType['allocateNPUMemory']} */
  allocateNPUMemory(size, options) {
    return this.#host.allocator.allocateNpu(size, options)
  }

  /** @type {MemoryManagerType['deallocateNPUMemory']} */
  deallocateNPUMemory(buffer) {
    this.#host.allocator.deallocate(buffer, 'npu')
  }

  getNPUMemoryStats() {
    return load.usage().npuStats(this.#open(), this.#device)
  }

  /** @type {MemoryManagerType['allocateSystemMemory']} */
  allocateSystemMemory(size, options) {
    return this.#host.allocator.allocateSystem(size, options)
  }

  /** @type {MemoryManagerType['deallocateSystemMemory']} */
  deallocateSystemMemory(buffer) {
    this.#host.allocator.deallocate(buffer, 'system')
  }

  getSystemMemoryStats() {
    return load.usage().systemStats(this.#open())
  }

  /** @type {MemoryManagerType['deallocate']} */
  deallocate(buffer) {
    this.#host.allocator.deallocate(buffer)
  }

  /** @type {MemoryManagerType['deallocateWhen']} */
  async deallocateWhen(buffer, done) {
    return this.#host.pendingFrees.deallocateWhen(buffer, done)
  }

  /** @type {MemoryManagerType['describe']} */
  describe(buffer) {
    return this.#host.allocator.describe(buffer)
  }

  /** @type {MemoryManagerType['owns']} */
  owns(buffer) {
    return this.#host.allocator.owns(buffer)
  }

  /** @type {MemoryManagerType['syncToDevice']} */
  syncToDevice(buffer, offset, length) {
    this.#host.allocator.sync(buffer, true, offset, length)
  }

  /** @type {MemoryManagerType['syncFromDevice']} */
  syncFromDevice(buffer, offset, length) {
    this.#host.allocator.sync(buffer, false, offset, length)
  }

  // ── Sharing

  /** @type {MemoryManagerType['exportDmaBuf']} */
  exportDmaBuf(buffer) {
    return load.sharing().exportDmaBuf(this.#host, buffer)
  }

  /** @type {MemoryManagerType['importDmaBuf']} */
  importDmaBuf(fd, options) {
    return load.sharing().importDmaBuf(this.#host, fd, options)
  }

  /** @type {MemoryManagerType['share']} */
  share(buffer) {
    return load.sharing().share(this.#host, buffer)
  }

  /** @type {MemoryManagerType['adopt']} */
  adopt(token) {
    return load.sharing().adopt(this.#host, token, this)
  }

  // ── Pools, and sessions over a pool

  /** @type {MemoryManagerType['createMemoryPool']} */
  createMemoryPool(options) {
    return /** @type {any} */ (load.createPool().createPool(this.#open(), this.#host, options))
  }

  /** @type {MemoryManagerType['getMemoryPool']} */
  getMemoryPool(name) {
    this.#open()
    if (typeof name !== 'string') throw invalid(`the name of a pool must be a string, not ${formatValue(name)}`)
    return /** @type {any} */ (this.#host.pools.get(name))
  }

  /** @type {MemoryManagerType['allocateFromPool']} */
  allocateFromPool(pool, size, options) {
    this.#open()
    return this.#host.pools.resolve(pool).allocateBuffer(size, options)
  }

  /** @type {MemoryManagerType['destroyMemoryPool']} */
  destroyMemoryPool(pool, options) {
    this.#open()
    const { force = false } = check('destroyMemoryPool', options, load.poolOptions().destroyPool)
    load.pool().destroyPool(this.#host.pools.resolve(pool), force)
  }

  /** @param {import('./types/inference.js').InferenceSpec} spec */
  createInferenceBuffers(spec) {
    this.#open()
    return /** @type {any} */ (load.inference().makeInferenceBuffers(/** @type {any} */ (this), spec))
  }

  /** @type {MemoryManagerType['createModelResidency']} */
  createModelResidency(options) {
    this.#open()
    const { makeResidency } = load.residency()
    return /** @type {any} */ (makeResidency(/** @type {any} */ (this), this.#host, this.#device, options))
  }

  /** @param {import('./types/rknn.js').RknnMemorySpec} spec */
  createRknnMemory(spec) {
    this.#open()
    return /** @type {any} */ (load.rknn().makeRknnMemory(/** @type {any} */ (this), spec))
  }

  // ── Monitoring

  getMemoryStats() {
    return { ...native.summary(this.#open()), simulated: this.#device.simulated }
  }

  getMemoryUsage() {
    const models = [...this.#host.residencies].flatMap((residency) => residency.modelStats())
    return load.usage().usageOf(this.#open(), this.getNPUMemoryStats(), this.getSystemMemoryStats(), models)
  }

  /** @type {MemoryManagerType['enableMemoryProfiling']} */
  enableMemoryProfiling(options) {
    this.#open()
    this.#host.profiling.start(check('enableMemoryProfiling', options, load.profilingOptions().profilingOptions))
  }

  disableMemoryProfiling() {
    this.#open()
    this.#host.profiling.stop()
  }

  getMemoryProfile() {
    this.#open()
    return this.#host.profiling.profile(true)
  }

  takeSnapshot() {
    return load.profiling().snapshotOf(this.#open(), this.#device, this.getMemoryStats())
  }

  /** @type {MemoryManagerType['writeReport']} */
  async writeReport(path, options) {
    this.#open()
    await load.report().writeManagerReport(/** @type {any} */ (this), this.#host, path, options)
  }

  /** @type {MemoryManagerType['metrics']} */
  metrics(options) {
    this.#open()
    const { exposition, metricsOptions } = load.metrics()
    const { format = 'openmetrics' } = check('metrics', options, metricsOptions)
    return exposition(this.getMemoryUsage(), this.#device, profileOf(/** @type {any} */ (this)), format)
  }

  /** @type {MemoryManagerType['optimizeMemory']} */
  optimizeMemory(options) {
    return load.optimize().optimizeMemory(this.#open(), this.#host.pools, options)
  }

  /** @type {MemoryManagerType['setMemoryLimits']} */
  setMemoryLimits(limits) {
    this.#open()
    if (limits === undefined) throw invalid('setMemoryLimits needs limits')
    this.#host.limits.apply(Limits.check('setMemoryLimits', limits))
  }

  getMemoryLimits() {
    this.#open()
    return this.#host.limits.get()
  }

  /** @type {MemoryManagerType['reserve']} */
  reserve(size, options) {
    const reservation = load.reservation().makeReservation(this.#open(), size, options)
    this.#host.notifications.poll()
    return /** @type {any} */ (reservation)
  }

  dispose() {
    this.#host.dispose()
  }

  /** @type {(depth: number, options: import('node:util').InspectOptionsStylized, _inspect: unknown) => string} */
  [inspect.custom](depth, options, _inspect) {
    if (!(#host in this)) return load.nonInstance().inspectNonInstance(options)
    return load.usage().inspectManager(this, depth, options, () => this.getMemoryStats())
  }

  #open() {
    return this.#host.handle.open()
  }

  static {
    defineAsyncTwins(/** @type {any} */ (MemoryManager), (manager) => /** @type {any} */ (manager).#host)
    defineDispose(MemoryManager, function dispose() {
      this.dispose() // a subclass's, if it overrides it
    })
    defineAsyncDispose(/** @type {any} */ (MemoryManager), async function dispose() {
      await /** @type {any} */ (this).disposeAsync()
    })
    publicClass(MemoryManager, (value) => #host in value)
  }
}

module.exports = { MemoryManager }
