'use strict'

// The memory of one RKLLM or RKNN session: all arrays that cross its API, from one pool, and the structs that point to them.

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

/** What a spec may come to, besides tensors of RKNN. */
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
/** Those with a row for each token. */
const BY_TOKEN = new Set(['tokens', 'embeddings', 'hiddenStates'])
/** Every array begins at a cache line: what is synced is nobody else's. */
const LINE = 64

const resetOptions = { tokens: kinds.integer(0, 2 ** 31 - 1), side: kinds.oneOf('front', 'back') }

/** Only `makeInferenceBuffers` has it. */
const ours = Symbol('made by a MemoryManager')
let made = 0

/** Whoever has an array keeps the buffers that it belongs to, and with them its neighbours. */
const keepers = new WeakMap()

/** Buffers that were dropped without `dispose`, and all their arrays with them. */
const dropped = new FinalizationRegistry((pool) => retire(pool, 100))

/** Ends a pool as soon as nothing is alive in it: the finalizers of its arrays come when they come. */
function retire(pool, patience) {
  if (pool.destroyed) return
  try {
    destroyPool(pool, false)
  } catch (error) {
    if (error.code !== 'ERR_POOL_BUSY') return
    setTimeout(retire, patience, pool, Math.min(2 * patience, 10_000)).unref()
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

  constructor(secret, manager, pool, spec, sets) {
    if (secret !== ours) throw invalid('InferenceBuffers are made by createInferenceBuffers')
    this.#manager = manager
    this.#pool = pool
    this.#spec = spec
    ;[this.#front, this.#back] = sets
    this.#bytes = bytesOf(spec)
    for (const { blocks } of sets) for (const { buffer } of blocks) keepers.set(buffer, this)
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
    return this.#whole('tokens').structs.tokenInput(count, options)
  }

  embedInput(count, options) {
    return this.#whole('embeddings').structs.embedInput(count, options)
  }

  multimodalInput(prompt, options) {
    return this.#whole('imageEmbeddings').structs.multimodalInput(prompt, options)
  }

  inferParam(options) {
    return this.#live().structs.inferParam(options)
  }

  crossAttention(count) {
    for (const name of ['encoderKeys', 'encoderValues', 'encoderMask', 'encoderPositions']) this.#whole(name)
    return this.#live().structs.crossAttention(count)
  }

  reset(options) {
    const { tokens, side = 'front' } = check('reset', options, resetOptions)
    const front = this.#live()
    const set = side === 'front' ? front : this.#back
    if (set === undefined) throw singleError('there is no back to reset')
    set.structs.reset()
    for (const { name, group, shape } of this.#spec.parts) {
      const array = find(set, group, name)
      if (array.length === 0) continue // freed, or moved elsewhere
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

  /** The front set, if it is still there. */
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

  /** The front set, if its array `name` is whole or was never asked for: an address of freed memory is given to nobody. */
  #whole(name) {
    const front = this.#live()
    if (front.arrays[name]?.length === 0) throw freedError(name)
    return front
  }

  /** Of both sets, but for those whose array the user freed. */
  #blocks() {
    return [...this.#front.blocks, ...(this.#back?.blocks ?? [])].filter((block) => !block.freed)
  }

  #sync(written, names, sync) {
    const front = this.#live()
    const { parts, kind } = this.#spec
    const chosen =
      names.length === 0 ? parts.filter((part) => part.written === written) : names.map((name) => partOf(parts, name))
    // What the CPU alone sees needs nothing.
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
  memoryError('ERR_BUFFER_FREED', `${what} of these inference buffers were freed, or moved elsewhere`)
const singleError = (what) =>
  memoryError('ERR_UNSUPPORTED', `${what}: these buffers are single`, { hint: 'ask for doubleBuffered: true' })

const find = ({ arrays }, group, name) => (group === '' ? arrays : arrays[group])[name]
const dtypeZero = (array) => (array instanceof BigInt64Array ? 0n : 0)
const keyOf = ({ group, name }) => (group === '' ? name : `${group}.${name}`)

function partOf(parts, name) {
  const part = parts.find((candidate) => keyOf(candidate) === name)
  if (part !== undefined) return part
  if (typeof name !== 'string') throw invalid(`an array is named by a string, not ${shown(name)}`)
  throw outOfRange(`these buffers have no ${shown(name)}`, {
    hint: `they have ${parts.map((known) => shown(keyOf(known))).join(', ')}`,
  })
}

/** What all sets take of the pool. */
function bytesOf(spec) {
  const one = spec.parts.reduce((sum, { bytes }) => sum + roundUp(bytes, LINE), placeStructs(spec).bytes)
  return spec.doubleBuffered ? 2 * one : one
}

/** One set: the arrays, where they are, and the structs of a request. */
function makeSet(pool, spec) {
  const arrays = { inputs: Object.create(null), outputs: Object.create(null) }
  const places = { inputs: Object.create(null), outputs: Object.create(null) }
  for (const name of ARRAYS) arrays[name] = places[name] = null
  const blocks = []
  const take = (bytes) => {
    const block = pool.allocate(bytes, { zeroed: true })
    blocks.push(block)
    return block
  }
  for (const { name, group, dtype, bytes } of spec.parts) {
    const block = take(bytes)
    ;(group === '' ? arrays : arrays[group])[name] = new dtypes[dtype].Array(block.buffer)
    ;(group === '' ? places : places[group])[name] = block.address
  }
  const structPlaces = placeStructs(spec)
  const block = take(structPlaces.bytes)
  const structs = new Structs(spec, structPlaces, block.buffer, block.address, places)
  const addresses = freeze({ ...places, ...structs.addresses })
  return { arrays, addresses, structs, blocks, shown: freeze({ ...arrays, addresses }) }
}

const freeze = (set) => {
  Object.freeze(set.inputs)
  Object.freeze(set.outputs)
  return Object.freeze(set)
}

/** What `manager.createInferenceBuffers` does. All of it, or nothing is taken. */
function makeInferenceBuffers(manager, options) {
  const spec = readSpec(options)
  const bytes = bytesOf(spec)
  if (bytes > Number.MAX_SAFE_INTEGER)
    throw outOfRange('createInferenceBuffers: all arrays together come to 2^53 bytes or more')
  const { kind, tag, allocation, name = `inference ${++made}` } = spec
  const pool = manager.createMemoryPool({ name, kind, initialSize: bytes, tag, allocation })
  try {
    const sets = Array.from({ length: spec.doubleBuffered ? 2 : 1 }, () => makeSet(pool, spec))
    return new InferenceBuffers(ours, manager, pool, spec, sets)
  } catch (error) {
    destroyPool(pool, true)
    throw error
  }
}

module.exports = { makeInferenceBuffers }
