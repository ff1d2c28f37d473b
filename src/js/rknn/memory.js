'use strict'

// Implements `createRknnMemory`: the memory of RKNN models, and the calls that hand it to librknnrt.

const { inspect } = require('node:util')
const { publicClass } = require('../core/border.js')
const { defineAsyncDispose, defineDispose } = require('../core/disposable.js')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { inspectNonInstance } = require('../core/inspect-non-instance.js')
const { check, invalid, kinds } = require('../core/options.js')
const { iterate, iterateAsync } = require('./calls.js')
const { Desk } = require('./desk.js')
const { readModel, readModelAsync } = require('./files.js')
const { loadSteps, unloadSteps } = require('./load.js')
const { Regions, closeAll } = require('./regions.js')
const { readSpec } = require('./spec.js')

/**
 * @typedef {import('../types/manager.js').MemoryManager} MemoryManager
 * @typedef {import('../types/rknn.js').RknnMemory} RknnMemoryType
 * @typedef {import('./load.js').Session} Session
 * @typedef {import('./load.js').Model} Model
 * @typedef {import('./calls.js').Steps} Steps
 * @typedef {import('./calls.js').AllocateStep} AllocateStep
 * @typedef {import('./calls.js').ReadStep} ReadStep
 * @typedef {'weights' | 'scratch' | 'tensors'} Role
 */

/** The construction key: only `makeRknnMemory` has it. */
const kConstruct = Symbol('constructed by a MemoryManager')
/**
 * Memory with contexts. The collector must not free it: the runtime reads it.
 *
 * @type {Set<RknnMemory>}
 */
const inUse = new Set()
/** Closes the descriptors of memory that was dropped without `dispose`. */
const dropped = new FinalizationRegistry(closeAll)

class RknnMemory {
  #manager
  #spec
  #session
  #models
  /** @type {RknnMemoryType['state']} */
  #state = 'new'
  /** Whether an iterator of load has begun and not ended. */
  #isLoading = false
  /** Allocations and reads of a loadAsync that have not ended. */
  #waiting = 0
  /** @type {Array<{ buffer: ArrayBuffer, role: Role | 'structs' }>} */
  #buffers = []
  #usage = { weights: 0, scratch: 0, tensors: 0, structs: 0 }
  /** @type {Promise<unknown>} The need that a loadAsync waits for. */
  #pending = Promise.resolve()

  /**
   * @param {symbol} key
   * @param {MemoryManager} manager
   * @param {ReturnType<typeof readSpec>} spec
   */
  constructor(key, manager, spec) {
    if (key !== kConstruct) throw invalid('RknnMemory is made by createRknnMemory')
    this.#manager = manager
    this.#spec = spec
    const desk = new Desk((bytes) => {
      const buffer = this.#keep('structs', bytes, manager.allocateSystemMemory(bytes, { tag: spec.tag }))
      return { buffer, address: manager.describe(buffer).address }
    })
    /** @type {Session} */
    this.#session = {
      header: spec.header,
      models: spec.models.map(modelOf),
      desk,
      regions: new Regions(manager, spec.via),
      runtime: null,
      locate: locate.bind(undefined, manager),
      syncToDevice: manager.syncToDevice.bind(manager),
      created: [],
    }
    this.#models = shownModels(this.#session.models)
    dropped.register(this, this.#session.regions.fds, this)
  }

  get header() {
    return this.#spec.header
  }

  get state() {
    return this.#state
  }

  get models() {
    return this.#models
  }

  get runtime() {
    return this.#session.runtime
  }

  get usage() {
    const { weights, scratch, tensors, structs } = this.#usage
    return { weights, scratch, tensors, structs, total: weights + scratch + tensors + structs }
  }

  load() {
    this.#expectNew()
    return iterate(this.#loading(), (need) =>
      'path' in need
        ? readModel(need.path, (bytes) => this.#allocate({ bytes, role: 'weights' }))
        : this.#allocate(need),
    )
  }

  /** @param {unknown} [options] */
  loadAsync(options) {
    const { signal } = check('loadAsync', options, { signal: kinds.signal })
    this.#expectNew()
    const meet = async (/** @type {AllocateStep | ReadStep} */ need) => {
      const met =
        'path' in need
          ? readModelAsync(need.path, (bytes) => this.#allocateAsync({ bytes, role: 'weights' }, signal), signal)
          : this.#allocateAsync(need, signal)
      this.#waiting++
      this.#pending = met.catch(() => {}).then(() => this.#waiting--)
      return met
    }
    return iterateAsync(this.#loading(), meet, signal)
  }

  unload() {
    this.#expectIdle()
    if (this.#state === 'disposed') throw disposedError()
    return iterate(this.#unloading(), () => {})
  }

  dispose() {
    if (this.#state === 'disposed') return
    this.#expectIdle()
    const { created, regions } = this.#session
    if (created.length > 0) {
      throw busyError(`${created.length} contexts use the memory of these models: nothing was freed`, {
        hint: 'make the calls of unload() first',
      })
    }
    this.#state = 'disposed'
    inUse.delete(this)
    dropped.unregister(this)
    regions.close()
    const buffers = this.#buffers
    this.#buffers = []
    this.#usage = { weights: 0, scratch: 0, tensors: 0, structs: 0 }
    if (this.#manager.disposed) return
    for (const { buffer } of buffers) if (buffer.byteLength > 0) this.#manager.deallocate(buffer)
  }

  async disposeAsync() {
    await this.#pending
    this.dispose()
  }

  /**
   * @param {number} _depth
   * @param {import('node:util').InspectOptionsStylized} options
   */
  [inspect.custom](_depth, options) {
    if (!(#session in this)) return inspectNonInstance(options)
    const name = options.stylize('RknnMemory', 'special')
    const models = this.#session.models.map(({ spec, contexts }) =>
      contexts.length === 1 ? spec.name : `${spec.name} ×${contexts.length}`,
    )
    return `${name} (${this.#state}, ${formatBytes(this.usage.total)}) { ${models.join(', ')} }`
  }

  #expectNew() {
    if (this.#state === 'disposed') throw disposedError()
    if (this.#state !== 'new') throw busyError(`these models are ${this.#state}: a load begins where they are new`)
  }

  #expectIdle() {
    if (this.#isLoading) throw busyError('a load of these models is under way: end its iteration first')
    if (this.#waiting > 0) throw busyError('memory of these models is being read or allocated: use disposeAsync')
  }

  /**
   * Marks the load as under way while its generator runs.
   *
   * @returns {Steps}
   */
  *#loading() {
    this.#expectNew()
    this.#state = 'loading'
    this.#isLoading = true
    inUse.add(this)
    try {
      yield* loadSteps(this.#session)
      this.#state = 'loaded'
    } finally {
      this.#isLoading = false
      if (this.#session.created.length === 0) inUse.delete(this)
    }
  }

  /** @returns {Steps} */
  *#unloading() {
    this.#state = 'unloading'
    yield* unloadSteps(this.#session)
    this.#state = 'unloaded'
    inUse.delete(this)
  }

  /** The options of NPU memory. A model's buffer begins its dma-buf. */
  #options(/** @type {Role} */ role) {
    const { tag, cacheable, iommuDomain } = this.#spec
    return { tag, cacheable, iommuDomain, dedicated: role !== 'tensors', zeroed: role === 'tensors' }
  }

  /** @param {AllocateStep} step */
  #allocate({ bytes, role }) {
    return this.#keep(role, bytes, this.#manager.allocateNPUMemory(bytes, this.#options(role)))
  }

  /**
   * @param {AllocateStep} step
   * @param {AbortSignal} [signal]
   */
  async #allocateAsync({ bytes, role }, signal) {
    const options = { ...this.#options(role), signal }
    return this.#keep(role, bytes, await this.#manager.allocateNPUMemoryAsync(bytes, options))
  }

  /**
   * @param {Role | 'structs'} role
   * @param {number} bytes
   * @param {ArrayBuffer} buffer
   */
  #keep(role, bytes, buffer) {
    this.#buffers.push({ buffer, role })
    this.#usage[role] += bytes
    return buffer
  }

  static {
    defineDispose(RknnMemory, function dispose() {
      this.dispose()
    })
    defineAsyncDispose(/** @type {any} */ (RknnMemory), async function dispose() {
      await /** @type {any} */ (this).disposeAsync()
    })
    publicClass(RknnMemory, (value) => #session in value)
  }
}

/** @type {(message: string, details?: { hint: string }) => Error} */
const busyError = (message, details) => memoryError('ERR_BUFFER_BUSY', message, details)
const disposedError = () => memoryError('ERR_BUFFER_FREED', 'this RKNN memory was disposed')

/**
 * @param {import('./spec.js').Model} spec
 * @returns {Model}
 */
const modelOf = (spec) => ({
  spec,
  contexts: spec.cores.map((cores, index) => ({
    index, cores, handle: 0n, memories: [], inputs: Object.create(null), outputs: Object.create(null),
  })),
  weightBytes: null,
  scratchBytes: null,
  tensors: [],
})

/**
 * The models as a program sees them: what is in them is read, not written.
 *
 * @param {Model[]} models
 * @returns {RknnMemoryType['models']}
 */
function shownModels(models) {
  const shown = Object.create(null)
  for (const model of models) {
    const contexts = model.contexts.map((context) =>
      Object.freeze({
        get handle() {
          return context.handle
        },
        cores: context.cores,
        inputs: context.inputs,
        outputs: context.outputs,
      }),
    )
    shown[model.spec.name] = Object.freeze({
      name: model.spec.name,
      contexts: Object.freeze(contexts),
      get weightBytes() {
        return model.weightBytes
      },
      get scratchBytes() {
        return model.scratchBytes
      },
    })
  }
  return Object.freeze(shown)
}

/**
 * @param {MemoryManager} manager
 * @param {import('../types/allocations.js').Buf} part
 */
function locate(manager, part) {
  const isView = ArrayBuffer.isView(part)
  const { address } = manager.describe(part)
  return { address: address + BigInt(isView ? part.byteOffset : 0), bytes: part.byteLength }
}

/**
 * Implements `manager.createRknnMemory`.
 *
 * @param {MemoryManager} manager
 * @param {unknown} options
 */
const makeRknnMemory = (manager, options) => new RknnMemory(kConstruct, manager, readSpec(options))

module.exports = { makeRknnMemory }
