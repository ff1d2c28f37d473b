'use strict'

// Implements `createInferenceBuffers`: the arrays that one RKLLM or RKNN session passes through its API, from one pool,
// and the C structs that point to them.

const { inspect } = require('node:util')
const { defineDispose } = require('../core/disposable.js')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { inspectNonInstance } = require('../core/inspect-non-instance.js')
const { check, invalid, kinds, outOfRange, shown } = require('../core/options.js')
const { destroyPool } = require('../pools/pool.js')
const { roundUp } = require('./layouts.js')
const { dtypes, readSpec } = require('./spec.js')
const { Structs, placeStructs } = require('./structs.js')

/** The arrays that a spec may ask for, besides RKNN tensors. */
const ARRAYS = [
  'tokens',
  'embeddings',
  'imageEmbeddings',
  'encoderKeys',
  'encoderValues',
  'encoderMask',
  'encoderPositions',
  'logits',
  'hiddenStates',
]
/** The arrays with a row for each token. */
const BY_TOKEN = new Set(['tokens', 'embeddings', 'hiddenStates'])
/** Arrays begin at cache lines, so that syncing one touches no other. */
const LINE = 64

const resetOptions = { tokens: kinds.integer(0, 2 ** 31 - 1), side: kinds.oneOf('front', 'back') }

/** The construction key: only `makeInferenceBuffers` has it. */
const kConstruct = Symbol('constructed by a MemoryManager')
let unnamed = 0

/** ArrayBuffer → its InferenceBuffers: one reachable array keeps all of them alive. */
const owners = new WeakMap()

/** Destroys the pools of buffers that were dropped without `dispose`. */
const dropped = new FinalizationRegistry((pool) => destroyWhenEmpty(pool, 100))

/** Destroys a pool once the finalizers of its arrays have run; tries again after `delayMs`. */
function destroyWhenEmpty(pool, delayMs) {
  if (pool.destroyed) return
  try {
    destroyPool(pool, false)
  } catch (error) {
    if (error.code !== 'ERR_POOL_BUSY') return
    setTimeout(destroyWhenEmpty, delayMs, pool, Math.min(2 * delayMs, 10_000)).unref()
  }
}

class InferenceBuffers {
  #manager
  #pool
  #spec
  #bytes
  /** Undefined once disposed. */
  #front
  #back
  #pins = 0

  constructor(key, manager, pool, spec, sets) {
    if (key !== kConstruct) throw invalid('InferenceBuffers are made by createInferenceBuffers')
    this.#manager = manager
    this.#pool = pool
    this.#spec = spec
    ;[this.#front, this.#back] = sets
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

  // ── Requests

  promptInput(prompt, options) {
    return this.#live().structs.promptInput(prompt, options)
  }

  tokenInput(count, options) {
    return this.#withArray('tokens').structs.tokenInput(count, options)
  }

  embedInput(count, options) {
    return this.#withArray('embeddings').structs.embedInput(count, options)
  }

  multimodalInput(prompt, options) {
    return this.#withArray('imageEmbeddings').structs.multimodalInput(prompt, options)
  }

  inferParam(options) {
    return this.#live().structs.inferParam(options)
  }

  crossAttention(count) {
    for (const name of ['encoderKeys', 'encoderValues', 'encoderMask', 'encoderPositions']) this.#withArray(name)
    return this.#live().structs.crossAttention(count)
  }

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
      array.fill(dtypeZero(array), 0, (array.length / shape[0]) * rows)
    }
  }

  swap() {
    this.#live()
    if (this.#back === undefined) throw singleError('there is nothing to swap')
    ;[this.#front, this.#back] = [this.#back, this.#front]
  }

  // ── Caches

  syncToDevice(...names) {
    this.#sync('host', names, (array) => this.#manager.syncToDevice(array))
  }

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
      destroyPool(this.#pool, true)
    }
    dropped.unregister(this)
    this.#front = this.#back = undefined
  }

  [inspect.custom](depth, options) {
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
        `the pool ${shown(this.#pool.name)} of these inference buffers was destroyed`,
      )
    }
    if (front.structs.gone) throw freedError('the structs')
    return front
  }

  /** Returns the front set, or throws if its array `name` was freed: no struct may hold an address of freed memory. */
  #withArray(name) {
    const front = this.#live()
    if (front.arrays[name]?.length === 0) throw freedError(name)
    return front
  }

  /** Returns the blocks of both sets, except those that the user freed. */
  #blocks() {
    return [...this.#front.blocks, ...(this.#back?.blocks ?? [])].filter((block) => !block.freed)
  }

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
  }
}

defineDispose(InferenceBuffers, function dispose() {
  this.dispose()
})

const freedError = (what) =>
  memoryError('ERR_BUFFER_FREED', `${what} of these inference buffers were freed or transferred`)
const singleError = (what) =>
  memoryError('ERR_UNSUPPORTED', `${what}: these buffers are single`, { hint: 'ask for doubleBuffered: true' })

const find = ({ arrays }, group, name) => (group === '' ? arrays : arrays[group])[name]
const dtypeZero = (array) => (array instanceof BigInt64Array ? 0n : 0)
const keyOf = ({ group, name }) => (group === '' ? name : `${group}.${name}`)

function partOf(parts, name) {
  const part = parts.find((candidate) => keyOf(candidate) === name)
  if (part !== undefined) return part
  if (typeof name !== 'string') throw invalid(`the name of an array must be a string, not ${shown(name)}`)
  throw outOfRange(`these buffers have no ${shown(name)}`, {
    hint: `they have ${parts.map((known) => shown(keyOf(known))).join(', ')}`,
  })
}

/** Computes the bytes that all sets take of the pool. */
function bytesOf(spec) {
  const one = spec.parts.reduce((sum, { bytes }) => sum + roundUp(bytes, LINE), placeStructs(spec).bytes)
  return spec.doubleBuffered ? 2 * one : one
}

/** Makes one set: the arrays, their addresses, and the structs of a request. */
function makeSet(pool, spec) {
  const arrays = { inputs: Object.create(null), outputs: Object.create(null) }
  const places = { inputs: Object.create(null), outputs: Object.create(null) }
  for (const name of ARRAYS) arrays[name] = places[name] = null
  const blocks = []
  const allocate = (bytes) => {
    const block = pool.allocate(bytes, { zeroed: true })
    blocks.push(block)
    return block
  }
  for (const { name, group, dtype, bytes } of spec.parts) {
    const block = allocate(bytes)
    ;(group === '' ? arrays : arrays[group])[name] = new dtypes[dtype].Array(block.buffer)
    ;(group === '' ? places : places[group])[name] = block.address
  }
  const structPlaces = placeStructs(spec)
  const block = allocate(structPlaces.bytes)
  const structs = new Structs(spec, structPlaces, block.buffer, block.address, places)
  const addresses = freeze({ ...places, ...structs.addresses })
  return { arrays, addresses, structs, blocks, shown: freeze({ ...arrays, addresses }) }
}

const freeze = (set) => {
  Object.freeze(set.inputs)
  Object.freeze(set.outputs)
  return Object.freeze(set)
}

/** Implements `manager.createInferenceBuffers`. If a part cannot be allocated, nothing is. */
function makeInferenceBuffers(manager, options) {
  const spec = readSpec(options)
  const bytes = bytesOf(spec)
  if (bytes > Number.MAX_SAFE_INTEGER)
    throw outOfRange('createInferenceBuffers: all arrays together have 2^53 bytes or more')
  const { kind, tag, allocation, name = `inference ${++unnamed}` } = spec
  const pool = manager.createMemoryPool({ name, kind, initialSize: bytes, tag, allocation })
  try {
    const sets = Array.from({ length: spec.doubleBuffered ? 2 : 1 }, () => makeSet(pool, spec))
    return new InferenceBuffers(kConstruct, manager, pool, spec, sets)
  } catch (error) {
    destroyPool(pool, true)
    throw error
  }
}

module.exports = { makeInferenceBuffers }
