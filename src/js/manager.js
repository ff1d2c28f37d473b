'use strict'

const { EventEmitter } = require('node:events')
const { inspect } = require('node:util')
const native = require('./core/binding.js')
const { arrayBufferOf, byteLengthOf, goneError, idOf, remember } = require('./core/buffers.js')
const { Teller, channels } = require('./core/diagnostics-channels.js')
const { Cleanup } = require('./reclaim/reclaimer.js')
const { memoryError } = require('./core/errors.js')
const { Errands } = require('./core/async-tasks.js')
const { collectGarbage } = require('./core/gc.js')
const { makeInferenceBuffers } = require('./inference/buffers.js')
const { Limits, makeReservation } = require('./limits/limits.js')
const { exposition } = require('./metrics/openmetrics.js')
const { offerProfile, profileOf } = require('./metrics/reader.js')
const { MovableBlock } = require('./pools/movable-block.js')
const { check, integer, invalid, npuRequest, outOfRange, schemas, shown, systemRequest } = require('./core/options.js')
const pressure = require('./reclaim/pressure.js')
const { makePool, isPool, destroyPool, endPool, handleOf, raised } = require('./pools/pool.js')
const { Profiling, snapshotOf } = require('./profiling/profiling.js')
const { disposeAtExit, tokenOf } = require('./sharing/sharing.js')
const { inspected, inspectedHeir, npuStats, systemStats, usageOf } = require('./stats/usage.js')
const { Walls } = require('./limits/process-limits.js')

/** A manager that was dropped without `dispose`: its device closes when its last buffer is collected. */
const dropped = new FinalizationRegistry((handle) => native.abandonManager(handle))

/** How often an asynchronous allocation is tried before want of memory is an error. */
const ASYNC_TRIES = 3

/** What `optimizeMemory` waits for a driver that is slow to take memory back. */
const SETTLE_MS = 2000

/** Views are swept when there are twice as many as were alive the last time, and never before there are this many. */
const FIRST_SWEEP = 256

class MemoryManager extends EventEmitter {
  /** The native manager; 0 once disposed. */
  #handle = 0
  #device
  /** What `dispose` detaches: id → WeakRef of the ArrayBuffer, and whose it is. Collected ones are swept out now and then. */
  #views = new Map()
  #sweepAt = FIRST_SWEEP
  #pools = new Map()
  /** Whether an address may be that of several buffers. */
  #sharing = false
  #cleanup
  #errands = new Errands()
  /** Closes the inspect socket, where one was asked for. */
  #closeInspector = () => {}
  /** How many warnings there had been in this process when this manager last took its own. */
  #heard = raised[0]
  #limits = new Limits((limits) => {
    native.setLimits(this.#handle, limits)
    this.#listen()
  })
  #walls = new Walls(
    () => native.processGauges(this.#handle),
    (warning) => this.#warned(warning),
  )
  #profiling = new Profiling(
    () => this.#handle,
    () => native.summary(this.#handle),
    (leak) => process.nextTick(() => this.emit('leak', leak)),
  )
  #teller = new Teller(
    this,
    (handle) => [...this.#pools.values()].find((pool) => handleOf(pool) === handle),
    (id) => this.#views.get(id)?.block,
  )
  /** What pools and blocks ask of their manager. */
  #forPools = {
    handedOut: (made, pool, block) => this.#handedOut(made, pool, block),
    allocated: (made, pool, block) => this.#allocated(made, pool, block),
    tell: (channel, pool, block, tag) => this.#teller.block(channel, pool, block, tag),
    deallocate: (buffer) => this.#deallocate(buffer, undefined),
    describe: (buffer) => this.describe(buffer),
    detachAll: (pool) => this.#detachAll(pool),
    listen: () => this.#listen(),
    isLive: (buffer) => native.isLive(idOf(buffer)),
    insist: (pool, allocate, wanted) => this.#insist(allocate, wanted, pool),
    rescue: (pool, refusal, allocate, wanted) => this.#retry(refusal, allocate, wanted, pool),
    movable: (pool, ...request) => this.#movable(pool, request),
    defragment: (pool, caps) => this.#cleanup.defragment(pool, caps),
    gap: (pool) => this.#cleanup.gap(pool),
    forget: (pool) => this.#pools.delete(pool.name),
  }

  constructor(options) {
    const checked = check('MemoryManager', options, schemas.manager)
    super()
    const { backend = 'auto', device: node, simulated, slabs, debug } = checked
    const limits = Limits.check('MemoryManager: limits', checked.limits)
    this.#cleanup = new Cleanup(
      checked.cleanup ?? {},
      (id) => this.#views.get(id)?.view.deref(),
      (moves) => process.nextTick(() => this.emit('relocated', moves)),
    )
    const { manager, device, warn } = native.openManager(backend, node, simulated, { ...slabs, ...debug })
    this.#handle = manager
    this.#device = Object.freeze(device)
    dropped.register(this, manager, this)
    pressure.watch(this, manager, MemoryManager.#pressed)
    offerProfile(this, () => this.#profiling.profile(false))
    this.#limits.apply(limits)
    if (warn) {
      process.emitWarning(
        'No NPU on this machine: @rkllmjs/memory runs on a simulated one. ' +
          "Pass backend: 'simulated' to say that you mean it.",
        { code: 'RKLLM_SIMULATED_NPU' },
      )
    }
    const { profiling = false } = checked
    if (profiling !== false) this.#profiling.start(profiling === true ? {} : profiling)
    // Loaded only when asked for: nothing else here needs the network modules.
    if (checked.inspect) this.#closeInspector = require('./inspect/inspector.js').openInspector(this)
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
    const request = npuRequest('allocateNPUMemory', options)
    return this.#allocated(this.#insist(() => native.allocateNpu(handle, size, request), { kind: 'npu', size, tag: request.tag }))
  }

  async allocateNPUMemoryAsync(size, options) {
    this.#open()
    integer('size', size, 1)
    const { signal, ...request } = npuRequest('allocateNPUMemoryAsync', options, schemas.npuAllocationAsync)
    for (let tries = 1; ; tries++) {
      signal?.throwIfAborted()
      try {
        const made = await this.#errands.wait(() => native.allocateNpuAsync(this.#open(), size, request), signal)
        return this.#arrived(made, signal)
      } catch (error) {
        if (tries === ASYNC_TRIES || !this.#wanting(error)) throw this.#teller.refused(error, { kind: 'npu', size, tag: request.tag })
        await finalizers()
      }
    }
  }

  deallocateNPUMemory(buffer) {
    this.#deallocate(buffer, 'npu')
  }

  getNPUMemoryStats() {
    return npuStats(this.#open(), this.#device)
  }

  // ── System memory

  allocateSystemMemory(size, options) {
    const handle = this.#open()
    integer('size', size, 1)
    const request = systemRequest('allocateSystemMemory', options)
    return this.#allocated(this.#insist(() => native.allocateSystem(handle, size, request), { kind: 'system', size, tag: request.tag }))
  }

  deallocateSystemMemory(buffer) {
    this.#deallocate(buffer, 'system')
  }

  getSystemMemoryStats() {
    return systemStats(this.#open())
  }

  // ── Either kind

  deallocate(buffer) {
    this.#deallocate(buffer, undefined)
  }

  describe(buffer) {
    const [handle, alive] = [this.#open(), this.#alive(buffer)]
    return native.describe(handle, alive, this.#which(alive))
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

  async syncToDeviceAsync(buffer, offset, length) {
    await this.#syncAsync(buffer, true, offset, length)
  }

  async syncFromDeviceAsync(buffer, offset, length) {
    await this.#syncAsync(buffer, false, offset, length)
  }

  // ── Sharing

  exportDmaBuf(buffer) {
    const exported = native.exportDmaBuf(this.#open(), this.#alive(buffer))
    this.#walls.allocated()
    return exported
  }

  importDmaBuf(fd, options) {
    const handle = this.#open()
    integer('fd', fd, 0, 2 ** 31 - 1)
    const { size, tag } = check('importDmaBuf', options, schemas.dmaBufImport)
    try {
      return this.#allocated(native.importDmaBuf(handle, fd, size, tag))
    } catch (error) {
      throw this.#teller.refused(error, { kind: 'npu', size, tag })
    }
  }

  share(buffer) {
    const handle = this.#open()
    const alive = this.#alive(buffer)
    const token = native.share(handle, alive, this.#which(alive))
    this.#sharing = true
    return Object.freeze({ token, size: byteLengthOf(alive) })
  }

  adopt(token) {
    const handle = this.#open()
    const name = tokenOf(token)
    const made = this.#insist(() => native.adopt(handle, name), { kind: null, size: token.size })
    this.#sharing = true
    disposeAtExit(this)
    return this.#allocated(made)
  }

  // ── Pools

  createMemoryPool(options) {
    const handle = this.#open()
    if (options === undefined) throw invalid('createMemoryPool needs options')
    const { name, kind = 'npu', initialSize, tag, allocation, ...sizes } = check('createMemoryPool', options, schemas.pool)
    if (name === undefined) throw invalid('createMemoryPool: name must be a string')
    // Its native twin would be another name, and might be another pool's.
    if (!name.isWellFormed()) throw outOfRange('createMemoryPool: name has half a surrogate pair in it')
    if (initialSize === undefined) throw invalid('createMemoryPool: initialSize must be a number')
    const memory = (kind === 'npu' ? npuRequest : systemRequest)('createMemoryPool: allocation', allocation)
    const request = { name, initialSize, ...sizes, [kind]: { ...memory, tag: tag ?? memory.tag } }
    const made = this.#insist(() => native.createPool(handle, request), { kind, size: initialSize, tag: tag ?? memory.tag, pool: name })
    const pool = makePool(name, kind, made, this.#forPools)
    this.#pools.set(name, pool)
    this.#listen()
    return pool
  }

  getMemoryPool(name) {
    this.#open()
    if (typeof name !== 'string') throw invalid(`the name of a pool must be a string, not ${shown(name)}`)
    return this.#pools.get(name)
  }

  allocateFromPool(pool, size, options) {
    this.#open()
    return this.#poolOf(pool).allocateBuffer(size, options)
  }

  destroyMemoryPool(pool, options) {
    this.#open()
    const { force = false } = check('destroyMemoryPool', options, schemas.destroyPool)
    destroyPool(this.#poolOf(pool), force)
  }

  // ── Sessions

  createInferenceBuffers(spec) {
    this.#open()
    return makeInferenceBuffers(this, spec)
  }

  // ── Monitoring

  getMemoryStats() {
    return { ...native.summary(this.#open()), simulated: this.#device.simulated }
  }

  getMemoryUsage() {
    return usageOf(this.#open(), this.getNPUMemoryStats(), this.getSystemMemoryStats())
  }

  enableMemoryProfiling(options) {
    this.#open()
    this.#profiling.start(check('enableMemoryProfiling', options, schemas.profiling))
  }

  disableMemoryProfiling() {
    this.#open()
    this.#profiling.stop()
  }

  getMemoryProfile() {
    this.#open()
    return this.#profiling.profile(true)
  }

  takeSnapshot() {
    return snapshotOf(this.#open(), this.#device, this.getMemoryStats())
  }

  async writeReport(path) {
    this.#open()
    // Loaded only when asked for: nothing else here writes files.
    await require('./report/index.js').writeReport(path, {
      snapshot: () => this.takeSnapshot(),
      profile: () => this.getMemoryProfile(),
      metrics: () => this.metrics({ format: 'prometheus' }),
    })
  }

  metrics(options) {
    this.#open()
    const { format = 'openmetrics' } = check('metrics', options, schemas.metrics)
    return exposition(this.getMemoryUsage(), this.#device, profileOf(this), format)
  }

  // ── Optimization

  optimizeMemory(options) {
    const handle = this.#open()
    const { trim = true, defragment = true } = check('optimizeMemory', options, schemas.optimize)
    const began = performance.now()
    // What it finds is given back when the event loop turns: until then nothing here can.
    collectGarbage()
    native.settle(handle, SETTLE_MS)
    const pools = {}
    let [bytesFreed, bytesMoved] = [trim ? native.trimSlabs(handle) : 0, 0]
    for (const [name, pool] of this.#pools) {
      if (defragment !== false) {
        pools[name] = pool.defragment(defragment === true ? {} : defragment)
        bytesFreed += pools[name].bytesFreed
        bytesMoved += pools[name].bytesMoved
      } else if (trim) {
        bytesFreed += pool.trim()
      }
    }
    return { bytesFreed, bytesMoved, pools, durationMs: performance.now() - began }
  }

  // ── Limits

  setMemoryLimits(limits) {
    this.#open()
    if (limits === undefined) throw invalid('setMemoryLimits needs limits')
    this.#limits.apply(Limits.check('setMemoryLimits', limits))
  }

  getMemoryLimits() {
    this.#open()
    return this.#limits.get()
  }

  reserve(size, options) {
    const handle = this.#open()
    integer('size', size, 1)
    const { kind = 'npu', tag, iommuDomain } = check('reserve', options, schemas.reservation)
    const id = native.reserve(handle, kind === 'npu', size, tag, iommuDomain)
    this.#listen()
    return makeReservation(size, tag, () => native.releaseReservation(handle, id))
  }

  // ── The end

  dispose() {
    const handle = this.#handle
    if (handle === 0) return
    this.#closeInspector()
    this.#profiling.end()
    this.#cleanup.end()
    this.#errands.end(disposedError())
    const tell = this.#detachAll()
    this.#handle = 0
    this.#views.clear()
    for (const pool of this.#pools.values()) endPool(pool)
    this.#pools.clear()
    dropped.unregister(this)
    native.closeManager(handle)
    tell()
  }

  [inspect.custom](depth, options, _inspect) {
    // The prototype, and what merely inherits from a manager.
    if (!(#device in this)) return inspectedHeir(options)
    return inspected(this, depth, options, () => this.getMemoryStats())
  }

  /** Memory is short. */
  static #pressed(manager, level, available) {
    const pools = [...manager.#pools.values()].map(handleOf)
    const told = (released) => manager.emit('pressure', { level, available, released })
    if (!manager.disposed) manager.#cleanup.relieve(manager.#handle, pools, told)
  }

  /** Passes warnings on: not from inside an allocation, for a listener may call anything. */
  #warned(warning) {
    process.nextTick(() => {
      if (channels.warning.hasSubscribers) channels.warning.publish({ manager: this, ...warning })
      this.emit('warning', warning)
    })
  }

  /** Takes what the native part has to warn of: after whatever may have taken memory. Returns what `raised` says. */
  #listen() {
    if (raised[0] !== this.#heard) {
      this.#heard = raised[0]
      native.takeWarnings(this.#handle).forEach((warning) => this.#warned(warning))
      this.#profiling.sampled()
    }
    return this.#heard
  }

  #open() {
    if (this.#handle === 0) throw disposedError()
    return this.#handle
  }

  /** The ArrayBuffer of `buffer`, if it still shows bytes. */
  #alive(value) {
    const buffer = arrayBufferOf(value)
    if (byteLengthOf(buffer) === 0) throw goneError(buffer, native.isLive)
    return buffer
  }

  /** A buffer that was not there before. */
  #allocated(made, pool, block) {
    const buffer = this.#handedOut(made, pool, block)
    this.#teller.allocated(buffer)
    return buffer
  }

  /** A buffer, or the one of a block that had none; `block` is what the channels need to know of it. */
  #handedOut([buffer, id], pool, block) {
    remember(buffer, id)
    if (this.#views.size >= this.#sweepAt) this.#sweep()
    this.#views.set(id, { view: new WeakRef(buffer), pool, block })
    if (pool === undefined) this.#walls.allocated()
    this.#listen()
    return buffer
  }

  /** Calls `allocate`, and before it fails for want of memory gives back what can be; `pool` is the one it is for. */
  #insist(allocate, wanted, pool) {
    try {
      return allocate()
    } catch (refusal) {
      return this.#retry(refusal, allocate, wanted, pool)
    }
  }

  #retry(refusal, allocate, wanted, pool) {
    try {
      return this.#rescue(refusal, allocate, pool)
    } catch (error) {
      throw this.#teller.refused(error, wanted, pool)
    }
  }

  #rescue(refusal, allocate, pool) {
    const others = [...this.#pools.values()].map(handleOf).filter((handle) => handle !== pool)
    return this.#cleanup.rescue(refusal, allocate, this.#handle, pool === undefined ? others : [pool, ...others])
  }

  #movable(pool, request) {
    const [size, , , tag] = request
    const [id] = this.#insist(() => native.movableAllocate(pool, ...request), { size, tag }, pool)
    this.#listen()
    const block = new MovableBlock(this.#forPools, pool, size, id, tag)
    if (channels.allocate.hasSubscribers) this.#teller.block(channels.allocate, pool, block, tag)
    return block
  }

  #sweep() {
    for (const [id, { view }] of this.#views) {
      if (view.deref() === undefined || !native.isLive(id)) this.#views.delete(id)
    }
    this.#sweepAt = Math.max(FIRST_SWEEP, this.#views.size * 2)
  }

  /** Frees every buffer that can be, or every one of `pool`. Returns what tells subscribers, once all is done. */
  #detachAll(pool) {
    const messages = []
    for (const { view, pool: of } of this.#views.values()) {
      if (pool !== undefined && of !== pool) continue
      const buffer = view.deref()
      if (buffer === undefined || byteLengthOf(buffer) === 0) continue
      try {
        const message = this.#teller.freeing(buffer)
        native.deallocate(this.#handle, buffer, undefined, idOf(buffer))
        messages.push(message)
      } catch {
        // Held by the runtime, or marked: it stays attached, and reads zeros once its memory is taken away.
      }
    }
    return () => messages.forEach((message) => this.#teller.freed(message))
  }

  /** Which allocation `buffer` is of, where several may be at its address. Of one that transfer() made, nobody can say. */
  #which(buffer) {
    return this.#sharing ? idOf(buffer) || undefined : undefined
  }

  #poolOf(pool) {
    const given = isPool(pool)
    const name = given ? pool.name : pool
    if (typeof name !== 'string') throw invalid(`the pool must be a MemoryPool or its name, not ${shown(pool)}`)
    const known = this.#pools.get(name)
    if (known !== undefined && (pool === name || pool === known)) return known
    if (given && pool.destroyed) {
      throw memoryError('ERR_POOL_DESTROYED', `pool ${JSON.stringify(name)} was destroyed`)
    }
    const hint = this.#pools.size === 0 ? 'it has none' : `it has ${[...this.#pools.keys()].map(shown).join(', ')}`
    throw memoryError('ERR_POOL_UNKNOWN', `this MemoryManager has no such pool ${JSON.stringify(name)}`, { hint })
  }

  #deallocate(value, kind) {
    const handle = this.#open()
    const buffer = this.#alive(value)
    const message = this.#teller.freeing(buffer)
    // One that transfer() made is seen here for the first time: a second deallocate shall say that it was freed.
    remember(buffer, native.deallocate(handle, buffer, kind, this.#which(buffer)))
    this.#teller.freed(message)
  }

  #sync(value, toDevice, offset, length) {
    native.sync(...this.#syncRequest(value, toDevice, offset, length))
  }

  async #syncAsync(value, toDevice, offset, length) {
    const request = this.#syncRequest(value, toDevice, offset, length)
    await this.#errands.wait(() => native.syncAsync(...request))
  }

  #syncRequest(value, toDevice, offset = 0, length) {
    const handle = this.#open()
    const buffer = this.#alive(value)
    integer('offset', offset, 0)
    if (length !== undefined) integer('length', length, 0)
    return [handle, buffer, toDevice, offset, length]
  }

  /** A buffer that another thread's work ended in. Between that and here the caller may have changed its mind. */
  #arrived(made, signal) {
    if (this.#handle === 0) throw disposedError()
    const buffer = this.#allocated(made)
    if (signal?.aborted) {
      this.deallocate(buffer)
      throw signal.reason
    }
    return buffer
  }

  /** Whether an allocation that was refused with `error` may succeed later; gives back what can be. */
  #wanting(error) {
    if (!Cleanup.isWant(error) || this.#handle === 0) return false
    try {
      this.#rescue(error, () => {})
    } catch {
      // There was nothing to give back: the finalizers may have something.
    }
    return true
  }
}

/** Lets the finalizers of dropped buffers run: they come some turns of the event loop after a collection. */
async function finalizers() {
  collectGarbage()
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve))
}

const disposedError = () => memoryError('ERR_MANAGER_DISPOSED', 'this MemoryManager was disposed')

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
