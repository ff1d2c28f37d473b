'use strict'

const { EventEmitter } = require('node:events')
const { inspect } = require('node:util')
const { getHeapStatistics } = require('node:v8')
const native = require('./binding.js')
const { arrayBufferOf, byteLengthOf, goneError, remember } = require('./buffers.js')
const { memoryError } = require('./errors.js')
const { check, integer, schemas } = require('./options.js')
const { human } = require('./human.js')

/** A manager that was dropped without `dispose`: its device closes when its last buffer is collected. */
const dropped = new FinalizationRegistry((handle) => native.abandonManager(handle))

/** Views are swept when there are twice as many as were alive the last time, and never before there are this many. */
const FIRST_SWEEP = 256

class MemoryManager extends EventEmitter {
  /** The native manager; 0 once disposed. */
  #handle = 0
  #device
  /** What `dispose` detaches: id → WeakRef of the ArrayBuffer. Collected ones are swept out now and then. */
  #views = new Map()
  #sweepAt = FIRST_SWEEP

  constructor(options) {
    const checked = check('MemoryManager', options, schemas.manager)
    super()
    const { manager, device, warn } = native.openManager(checked.backend ?? 'auto', checked.device, checked.simulated)
    this.#handle = manager
    this.#device = Object.freeze(device)
    dropped.register(this, manager, this)
    if (warn) {
      process.emitWarning(
        'No NPU on this machine: @rkllmjs/memory runs on a simulated one. ' +
          "Pass backend: 'simulated' to say that you mean it.",
        { code: 'RKLLM_SIMULATED_NPU' },
      )
    }
  }

  get device() {
    return this.#device
  }

  get disposed() {
    return this.#handle === 0
  }

  // ── NPU memory

  allocateNPUMemory(size, options) {
    const handle = this.#open()
    integer('size', size, 1)
    const { placement, dedicated: _always, ...rest } = check('allocateNPUMemory', options, schemas.npuAllocation)
    return this.#handedOut(native.allocateNpu(handle, size, { ...rest, sram: placement === 'try-sram' }))
  }

  deallocateNPUMemory(buffer) {
    this.#deallocate(buffer, 'npu')
  }

  getNPUMemoryStats() {
    const { counters, lostObjects, lostBytes, ...figures } = native.npuStats(this.#open())
    const { backend, simulated, sramTotal } = this.#device
    return { backend, simulated, ...counters, ...figures, limit: null, sramTotal, lost: { objects: lostObjects, bytes: lostBytes } }
  }

  // ── System memory

  allocateSystemMemory(size, options) {
    const handle = this.#open()
    integer('size', size, 1)
    // Pages come zeroed from the kernel, asked or not.
    const { hugePages, zeroed: _always, ...rest } = check('allocateSystemMemory', options, schemas.systemAllocation)
    const huge = { true: true, try: false }[hugePages]
    return this.#handedOut(native.allocateSystem(handle, size, { ...rest, hugePages: huge }))
  }

  deallocateSystemMemory(buffer) {
    this.#deallocate(buffer, 'system')
  }

  getSystemMemoryStats() {
    const { counters, ...figures } = native.systemStats(this.#open())
    return { ...counters, limit: null, ...figures }
  }

  // ── Either kind

  deallocate(buffer) {
    this.#deallocate(buffer, undefined)
  }

  describe(buffer) {
    return native.describe(this.#open(), this.#alive(buffer))
  }

  owns(buffer) {
    return native.owns(this.#open(), arrayBufferOf(buffer))
  }

  // ── Cache maintenance

  syncToDevice(buffer, offset, length) {
    this.#sync(buffer, true, offset, length)
  }

  syncFromDevice(buffer, offset, length) {
    this.#sync(buffer, false, offset, length)
  }

  // ── Sharing

  exportDmaBuf(buffer) {
    return native.exportDmaBuf(this.#open(), this.#alive(buffer))
  }

  importDmaBuf(fd, options) {
    const handle = this.#open()
    integer('fd', fd, 0, 2 ** 31 - 1)
    const { size, tag } = check('importDmaBuf', options, schemas.dmaBufImport)
    return this.#handedOut(native.importDmaBuf(handle, fd, size, tag))
  }

  // ── Monitoring

  getMemoryStats() {
    const summary = native.summary(this.#open())
    return { ...summary, poolReserved: 0, poolAllocated: 0, simulated: this.#device.simulated }
  }

  getMemoryUsage() {
    const handle = this.#open()
    // Not process.memoryUsage(): it opens /proc, which it cannot when the process is out of descriptors.
    const { used_heap_size: heapUsed, external_memory: external } = getHeapStatistics()
    const system = this.getSystemMemoryStats()
    const gauges = native.processGauges(handle)
    return {
      npu: this.getNPUMemoryStats(),
      system,
      pools: [],
      tags: Object.fromEntries(native.tags(handle).map(({ tag, counters }) => [tag, counters])),
      reservations: [],
      process: {
        rss: system.rss,
        heapUsed,
        external,
        // Where /proc is not mounted these are not known, and not a number.
        openFds: gauges.openFds ?? NaN,
        maxFds: gauges.maxFds ?? NaN,
        maps: gauges.maps ?? NaN,
        maxMaps: gauges.maxMaps ?? NaN,
      },
      fragmentation: 0,
    }
  }

  // ── The end

  dispose() {
    const handle = this.#handle
    if (handle === 0) return
    for (const view of this.#views.values()) {
      const buffer = view.deref()
      if (buffer === undefined || byteLengthOf(buffer) === 0) continue
      try {
        native.deallocate(handle, buffer)
      } catch {
        // Held by the runtime, or marked: it stays attached, and reads zeros once the manager is closed.
      }
    }
    this.#handle = 0
    this.#views.clear()
    dropped.unregister(this)
    native.closeManager(handle)
  }

  [inspect.custom](depth, options, _inspect) {
    // The prototype, and what merely inherits from a manager.
    if (!(#device in this)) return inspect(Object.create(null), options)
    const name = options.stylize('MemoryManager', 'special')
    const { backend, simulated, soc, driverVersion, path } = this.#device
    const where = simulated ? `simulated ${soc}` : [backend, soc, driverVersion, path].filter(Boolean).join(' ')
    if (this.disposed) return `${name} (${where}, disposed)`
    if (depth < 0) return `${name} (${where})`
    const stats = this.getMemoryStats()
    const line = (used, total, peak) => options.stylize(`${human(used)} of ${human(total)}, peak ${human(peak)}`, 'number')
    return [
      `${name} (${where}) {`,
      `  npu:    ${line(stats.npuUsed, stats.npuTotal, stats.npuPeak)}`,
      `  system: ${line(stats.systemUsed, stats.systemTotal, stats.systemPeak)}`,
      `  live:   ${options.stylize(String(stats.liveAllocations), 'number')}`,
      '}',
    ].join('\n')
  }

  #open() {
    if (this.#handle === 0) throw memoryError('ERR_MANAGER_DISPOSED', 'this MemoryManager was disposed')
    return this.#handle
  }

  /** The ArrayBuffer of `buffer`, if it still shows bytes. */
  #alive(value) {
    const buffer = arrayBufferOf(value)
    if (byteLengthOf(buffer) === 0) throw goneError(buffer, native.isLive)
    return buffer
  }

  #handedOut({ buffer, id }) {
    remember(buffer, id)
    if (this.#views.size >= this.#sweepAt) this.#sweep()
    this.#views.set(id, new WeakRef(buffer))
    return buffer
  }

  #sweep() {
    for (const [id, view] of this.#views) {
      if (view.deref() === undefined || !native.isLive(id)) this.#views.delete(id)
    }
    this.#sweepAt = Math.max(FIRST_SWEEP, this.#views.size * 2)
  }

  #deallocate(value, kind) {
    const handle = this.#open()
    const buffer = this.#alive(value)
    // One that transfer() made is seen here for the first time: a second deallocate shall say that it was freed.
    remember(buffer, native.deallocate(handle, buffer, kind))
  }

  #sync(value, toDevice, offset = 0, length) {
    const handle = this.#open()
    const buffer = this.#alive(value)
    integer('offset', offset, 0)
    if (length !== undefined) integer('length', length, 0)
    native.sync(handle, buffer, toDevice, offset, length)
  }
}

if (Symbol.dispose !== undefined) {
  Object.defineProperty(MemoryManager.prototype, Symbol.dispose, {
    value() {
      this.dispose() // an heir's, where there is one
    },
    configurable: true,
    writable: true,
  })
}

module.exports = { MemoryManager }
