'use strict'

// Implements `createInferenceBuffers`: the arrays that one RKLLM or RKNN session passes through its API, from one pool,
// and the C structs that point to them.

const { inspect } = require('node:util')
const { publicClass } = require('../core/border.js')
const { defineDispose } = require('../core/disposable.js')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { inspectNonInstance } = require('../core/inspect-non-instance.js')
const { check, invalid, kinds, outOfRange, formatValue } = require('../core/options.js')
const { destroyPool, expectFull } = require('../pools/pool.js')
const { setTimeout } = require('../core/runtime.js')
const { readSpec, readSpecAsync } = require('./spec.js')
const { Parameters } = require('./parameters.js')
const { defaultSampling } = require('./sampling.js')
const { ARRAYS, bytesOf, find, makeSet, setsOf, targetsOf } = require('./sets.js')
const { Sink } = require('./sink.js')

/** The arrays with a row for each token. */
const BY_TOKEN = new Set(['tokens', 'embeddings', 'hiddenStates'])
const resetOptions = { tokens: kinds.integer(0, 2 ** 31 - 1), side: kinds.oneOf('front', 'back') }

/** The construction key: only `makeInferenceBuffers` has it. */
const kConstruct = Symbol('constructed by a MemoryManager')
let unnamed = 0

/**
 * @typedef {ReturnType<typeof readSpec>} Spec
 * @typedef {import('./spec.js').Part} Part
 * @typedef {import('../types/manager.js').MemoryManager} MemoryManager
 * @typedef {import('../pools/pool.js').MemoryPool} MemoryPool
 * @typedef {import('../pools/block.js').MemoryBlock} MemoryBlock
 * @typedef {import('../types/inference.js').RKNNArray} RKNNArray
 * @typedef {import('./sets.js').Set} Set
 */

/** ArrayBuffer → its InferenceBuffers: one reachable array keeps all of them alive. */
const owners = new WeakMap()

/** Destroys the pools of buffers that were dropped without `dispose`. */
const dropped = new FinalizationRegistry((/** @type {MemoryPool} */ pool) => destroyWhenEmpty(pool, 100))

/**
 * Destroys a pool once the finalizers of its arrays have run; tries again after `delayMs`.
 *
 * @param {MemoryPool} pool
 * @param {number} delayMs
 */
function destroyWhenEmpty(pool, delayMs) {
  if (pool.destroyed) return
  try {
    destroyPool(pool, false)
  } catch (error) {
    if (/** @type {import('../types/errors.js').MemoryError} */ (error).code !== 'ERR_POOL_BUSY') return
    setTimeout(destroyWhenEmpty, delayMs, pool, Math.min(2 * delayMs, 10_000)).unref()
  }
}

class InferenceBuffers {
  #manager
  #pool
  #spec
  #bytes
  /** @type {Set | undefined} Undefined once disposed. */
  #front
  /** @type {Set | undefined} */
  #back
  #parameters
  #pins = 0
  /** @type {Sink | undefined} */
  #sink

  /**
   * @param {symbol} key
   * @param {MemoryManager} manager
   * @param {MemoryPool} pool
   * @param {Spec} spec
   * @param {Set[]} sets
   * @param {Parameters} parameters
   */
  constructor(key, manager, pool, spec, sets, parameters) {
    if (key !== kConstruct) throw invalid('InferenceBuffers are made by createInferenceBuffers')
    this.#manager = manager
    this.#pool = pool
    this.#spec = spec
    ;[this.#front, this.#back] = sets
    this.#parameters = parameters
    this.#bytes = bytesOf(spec)
    for (const { blocks } of sets) for (const { buffer } of blocks) owners.set(buffer, this)
    dropped.register(this, pool, this)
  }

  get kind() {
    return this.#spec.kind
  }

  get header() {
    return this.#spec.header
  }

  get shapes() {
    return this.#spec.shapes
  }

  get bytes() {
    return this.#bytes
  }

  get disposed() {
    return this.#front === undefined || this.#pool.destroyed
  }

  get inputs() {
    return this.#live().arrays.inputs
  }

  get outputs() {
    return this.#live().arrays.outputs
  }

  get addresses() {
    return this.#live().addresses
  }

  get back() {
    this.#live()
    return this.#back?.shown ?? null
  }

  // ── The session

  /** @param {unknown} options */
  param(options) {
    return this.#session().param(options)
  }

  /** @param {unknown} options */
  loraAdapter(options) {
    return this.#session().loraAdapter(options)
  }

  // ── Requests

  /**
   * @param {string} prompt
   * @param {unknown} [options]
   */
  promptInput(prompt, options) {
    return this.#live().structs.promptInput(prompt, options)
  }

  /**
   * @param {number} count
   * @param {unknown} [options]
   */
  tokenInput(count, options) {
    return this.#withArray('tokens').structs.tokenInput(count, options)
  }

  /**
   * @param {number} count
   * @param {unknown} [options]
   */
  embedInput(count, options) {
    return this.#withArray('embeddings').structs.embedInput(count, options)
  }

  /**
   * @param {string} prompt
   * @param {unknown} [options]
   */
  multimodalInput(prompt, options) {
    return this.#withArray('imageEmbeddings').structs.multimodalInput(prompt, options)
  }

  /** @param {unknown} [options] */
  inferParam(options) {
    return this.#live().structs.inferParam(options)
  }

  /** @param {number} [count] */
  crossAttention(count) {
    for (const name of ['encoderKeys', 'encoderValues', 'encoderMask', 'encoderPositions']) this.#withArray(name)
    return this.#live().structs.crossAttention(count)
  }

  /** @param {unknown} [options] */
  reset(options) {
    const { tokens, side = 'front' } = check('reset', options, resetOptions)
    const front = this.#live()
    const set = side === 'front' ? front : this.#back
    if (set === undefined) throw singleError('there is no back set to reset')
    set.structs.reset()
    for (const { name, group, shape } of this.#spec.parts) {
      const array = find(set, group, name)
      if (array.length === 0) continue // freed or transferred
      const rows = tokens !== undefined && group === '' && BY_TOKEN.has(name) ? Math.min(tokens, shape[0]) : shape[0]
      const end = (array.length / shape[0]) * rows
      if (array instanceof BigInt64Array) array.fill(0n, 0, end)
      else array.fill(0, 0, end)
    }
  }

  swap() {
    this.#live()
    if (this.#back === undefined) throw singleError('there is nothing to swap')
    ;[this.#front, this.#back] = [this.#back, this.#front]
    this.#sink?.setTargets(targetsOf(this.#spec, this.#live()))
  }

  // ── The runtime's results

  /** @param {unknown} [options] */
  callbacks(options) {
    const front = this.#live()
    if (this.#sink !== undefined && options !== undefined) {
      throw memoryError('ERR_BUFFER_BUSY', 'these buffers have callbacks: their options cannot change', {
        hint: 'call releaseCallbacks() first, once the runtime has let go',
      })
    }
    const buffers = this.#blocks().map((block) => block.buffer)
    this.#sink ??= new Sink(this, this.#spec, options, targetsOf(this.#spec, front), buffers)
    return this.#sink.addresses
  }

  /** @param {unknown} [options] */
  results(options) {
    this.callbacks()
    return /** @type {Sink} */ (this.#sink).results(this, options)
  }

  releaseCallbacks() {
    this.#sink?.close(true)
    this.#sink = undefined
  }

  // ── Caches

  /** @param {string[]} names */
  syncToDevice(...names) {
    this.#sync('host', names, (array) => this.#manager.syncToDevice(array))
  }

  /** @param {string[]} names */
  syncFromDevice(...names) {
    this.#sync('device', names, (array) => this.#manager.syncFromDevice(array))
  }

  // ── The end

  pin() {
    this.#live()
    this.#blocks().forEach((block) => block.pin())
    this.#pins++
  }

  unpin() {
    this.#live()
    if (this.#pins === 0) throw memoryError('ERR_OUT_OF_RANGE', 'these buffers are not pinned')
    this.#pins--
    this.#blocks().forEach((block) => block.unpin())
  }

  dispose() {
    if (this.#front === undefined) return
    if (!this.#pool.destroyed) {
      if (this.#pins !== 0) {
        throw memoryError('ERR_BUFFER_BUSY', `these buffers are pinned ${this.#pins} times: nothing was freed`, {
          hint: 'unpin them as often as they were pinned, when native code is done with them',
        })
      }
      // A run that begins now finds no session: no callback writes to the pool while it ends.
      this.#sink?.closeIfIdle()
      this.#sink = undefined
      destroyPool(this.#pool, true)
    }
    this.#sink?.close(false)
    this.#sink = undefined
    dropped.unregister(this)
    this.#front = this.#back = undefined
  }

  /**
   * @param {number} _depth
   * @param {import('node:util').InspectOptionsStylized} options
   */
  [inspect.custom](_depth, options) {
    if (!(#front in this)) return inspectNonInstance(options)
    const name = options.stylize('InferenceBuffers', 'special')
    if (this.disposed) return `${name} (${this.kind}, disposed)`
    const list = this.#spec.parts.map(
      ({ name: own, group, shape }) => `${group === '' ? own : `${group}.${own}`} ${shape.join('×')}`,
    )
    const sets = this.#back === undefined ? '' : ', twice'
    return `${name} (${this.kind}, ${formatBytes(this.#bytes)}) { ${list.join(', ')}${sets} }`
  }

  /** Returns the front set, or throws why it is gone. */
  #live() {
    const front = this.#front
    if (front === undefined) throw memoryError('ERR_BUFFER_FREED', 'these inference buffers were disposed')
    if (this.#pool.destroyed) {
      if (this.#manager.disposed)
        throw memoryError('ERR_MANAGER_DISPOSED', 'the MemoryManager of these inference buffers was disposed')
      throw memoryError(
        'ERR_POOL_DESTROYED',
        `the pool ${formatValue(this.#pool.name)} of these inference buffers was destroyed`,
      )
    }
    if (front.structs.gone) throw freedError('the structs')
    return front
  }

  /** Returns the structs of the session, or throws why they are gone. */
  #session() {
    this.#live()
    if (this.#parameters.gone) throw freedError('the structs')
    return this.#parameters
  }

  /**
   * Returns the front set, or throws if its array `name` was freed: no struct may hold an address of freed memory.
   *
   * @param {string} name
   */
  #withArray(name) {
    const front = this.#live()
    if (front.arrays[name]?.length === 0) throw freedError(name)
    return front
  }

  /** Returns the blocks of both sets, except those that the user freed. */
  #blocks() {
    return [...(this.#front?.blocks ?? []), ...(this.#back?.blocks ?? [])].filter((block) => !block.freed)
  }

  /**
   * @param {Part['written']} written
   * @param {string[]} names
   * @param {(array: RKNNArray) => void} sync
   */
  #sync(written, names, sync) {
    const front = this.#live()
    const { parts, kind } = this.#spec
    const chosen =
      names.length === 0 ? parts.filter((part) => part.written === written) : names.map((name) => partOf(parts, name))
    // System memory needs no cache maintenance.
    if (kind === 'npu') for (const { group, name } of chosen) sync(find(front, group, name))
  }

  static {
    for (const name of ARRAYS) {
      Object.defineProperty(this.prototype, name, {
        get() {
          return this.#live().arrays[name]
        },
        configurable: true,
      })
    }
    defineDispose(InferenceBuffers, function dispose() {
      this.dispose()
    })
    publicClass(InferenceBuffers, (value) => #front in value)
  }
}

/** @type {(what: string) => Error} */
const freedError = (what) =>
  memoryError('ERR_BUFFER_FREED', `${what} of these inference buffers were freed or transferred`)
/** @type {(what: string) => Error} */
const singleError = (what) =>
  memoryError('ERR_UNSUPPORTED', `${what}: these buffers are single`, { hint: 'ask for doubleBuffered: true' })

/** @type {(part: Part) => string} */
const keyOf = ({ group, name }) => (group === '' ? name : `${group}.${name}`)

/**
 * @param {Part[]} parts
 * @param {unknown} name
 */
function partOf(parts, name) {
  const part = parts.find((candidate) => keyOf(candidate) === name)
  if (part !== undefined) return part
  if (typeof name !== 'string') throw invalid(`the name of an array must be a string, not ${formatValue(name)}`)
  throw outOfRange(`these buffers have no ${formatValue(name)}`, {
    hint: `they have ${parts.map((known) => formatValue(keyOf(known))).join(', ')}`,
  })
}

/**
 * The options of the pool of a spec.
 *
 * @param {Spec} spec
 */
function poolOptions(spec) {
  const initialSize = bytesOf(spec)
  if (initialSize > Number.MAX_SAFE_INTEGER)
    throw outOfRange('createInferenceBuffers: all arrays together have 2^53 bytes or more')
  const { kind, tag, allocation, name = `inference ${++unnamed}` } = spec
  return { name, kind, initialSize, tag, allocation }
}

/**
 * Implements `manager.createInferenceBuffers`. If a part cannot be allocated, nothing is.
 *
 * @param {MemoryManager} manager
 * @param {unknown} options
 */
function makeInferenceBuffers(manager, options) {
  const spec = readSpec(options)
  const pool = /** @type {MemoryPool} */ (/** @type {unknown} */ (manager.createMemoryPool(poolOptions(spec))))
  expectFull(pool)
  try {
    const sets = setsOf(spec).map((sizes) => sizes.map((bytes) => pool.allocate(bytes, { zeroed: true })))
    return construct(manager, pool, spec, sets)
  } catch (error) {
    destroyPool(pool, true)
    throw error
  }
}

/**
 * Implements `manager.createInferenceBuffersAsync`. The signal may be part of the spec, or of other options.
 *
 * @param {MemoryManager} manager
 * @param {unknown} options
 * @param {unknown} others
 */
async function makeInferenceBuffersAsync(manager, options, others) {
  const { signal: other } = check('createInferenceBuffersAsync', others, { signal: kinds.signal })
  const { signal: own, ...spec } = await readSpecAsync(options)
  const signal = other ?? own
  const made = await manager.createMemoryPoolAsync({ ...poolOptions(spec), signal })
  const pool = /** @type {MemoryPool} */ (/** @type {unknown} */ (made))
  try {
    expectFull(pool)
    const sets = []
    for (const sizes of setsOf(spec)) {
      const blocks = []
      for (const bytes of sizes) blocks.push(await pool.allocateAsync(bytes, { zeroed: true, signal }))
      sets.push(blocks)
    }
    return construct(manager, pool, spec, sets)
  } catch (error) {
    if (!pool.destroyed) destroyPool(pool, true)
    throw error
  }
}

/**
 * @param {MemoryManager} manager
 * @param {MemoryPool} pool
 * @param {Spec} spec
 * @param {MemoryBlock[][]} sets the blocks of each set
 */
function construct(manager, pool, spec, sets) {
  const defaults = { sampling: defaultSampling }
  const made = sets.map((blocks) => makeSet(spec, blocks, defaults))
  const parameters = new Parameters(spec, spec.rkllm ? sets[0].at(-1) : undefined, defaults)
  return new InferenceBuffers(kConstruct, manager, pool, spec, made, parameters)
}

module.exports = { makeInferenceBuffers, makeInferenceBuffersAsync }
