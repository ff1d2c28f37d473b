'use strict'

const { MAX_LENGTH } = require('node:buffer').constants
const { inspect } = require('node:util')
const native = require('../core/binding.js')
const { arrayBufferOf, byteLengthOf } = require('../core/buffers.js')
const { PLACED, channels } = require('../core/diagnostics-channels.js')
const { memoryError } = require('../core/errors.js')
const { human } = require('../core/format-bytes.js')
const { check, integer, invalid, outOfRange, schemas } = require('../core/options.js')

/** Calls without arguments: what is asked and what is answered lies in the mailbox (`src/node/hot.rs`). */
const hot = native.hotFunctions()
const { allocate, free } = hot
/** Their own names: on the fast path even a property costs. */
const { allocate: taken, free: given } = channels
const numbers = new Float64Array(hot.mailbox)
const words = new Int32Array(hot.mailbox)
/** How many warnings there have been in this process. */
const raised = new Uint32Array(hot.raised)
// Places in `numbers`: a request, and the answer to `allocate`.
const [POOL, SIZE, ALIGNMENT, ADDRESS, DEVICE_ADDRESS] = [0, 1, 2, 3, 4]
// Places in `words`: a slice's name.
const [CHUNK, CHUNK_GENERATION, SLOT, STAMP] = [10, 11, 12, 13]

/** Takes a slice: its place and its name are in the mailbox afterwards. */
function take(pool, size, alignment) {
  numbers[POOL] = pool
  numbers[SIZE] = size
  numbers[ALIGNMENT] = alignment
  allocate()
}

/** Only `makePool` and pools themselves have it. */
const ours = Symbol('made by a MemoryManager')

/** The same, for a block whose place nobody may remember. */
const unplaced = Symbol('made by a MemoryManager, and movable')

// What this file's classes do for the manager, and nobody else may ask of them.
let isPool, destroyPool, endPool, handleOf, isBlock, blockIsOf

/** The finest alignment in a pool, in bytes. */
const CACHE_LINE = 64

/**
 * Slices of few large pieces of memory in place of many small ones. Made by `manager.createMemoryPool`.
 */
class MemoryPool {
  #name
  #kind
  /** The native pool; 0 once destroyed. */
  #handle
  /** What the manager does for its pools: what `#forPools` there says. */
  #manager
  /** What `raised` said when the manager last listened. */
  #heard = raised[0]

  constructor(made, name, kind, handle, manager) {
    if (made !== ours) throw invalid('a MemoryPool is made by createMemoryPool')
    this.#name = name
    this.#kind = kind
    this.#handle = handle
    this.#manager = manager
  }

  get name() {
    return this.#name
  }

  get kind() {
    return this.#kind
  }

  get destroyed() {
    return this.#handle === 0
  }

  allocate(size, options) {
    const handle = this.#open()
    if (options !== undefined) return this.#allocateWith(handle, size, options)
    // The fast path: a comparison, one call of numbers, one object.
    if (!Number.isSafeInteger(size) || size < 1) integer('size', size, 1)
    this.#take(handle, size, CACHE_LINE)
    if (raised[0] !== this.#heard) this.#heard = this.#manager.listen()
    const block = new MemoryBlock(ours, this.#manager, handle, size)
    if (taken.hasSubscribers) this.#manager.tell(taken, handle, block)
    return block
  }

  allocateBuffer(size, options) {
    const handle = this.#open()
    integer('size', size, 1)
    const checked = check('allocateFromPool', options, schemas.poolAllocation)
    const { alignment, zeroed = false, movable = false, tag } = checked
    // Whoever has an ArrayBuffer and nothing else could not know where its bytes went.
    if (movable) throw invalid('an ArrayBuffer cannot be movable', 'pool.allocate(size, { movable: true }) gives a block that is')
    if (size > MAX_LENGTH) throw tooLong(size, 'nothing was allocated')
    const allocate = () => native.allocateFromPool(handle, size, alignment, zeroed, tag)
    return this.#manager.allocated(this.#manager.insist(handle, allocate, { size, tag }), handle)
  }

  deallocate(memory) {
    const handle = this.#open()
    if (isBlock(memory)) {
      if (!blockIsOf(memory, handle)) throw this.#notOurs()
      memory.free()
      return
    }
    const buffer = arrayBufferOf(memory)
    if (byteLengthOf(buffer) !== 0 && this.#manager.describe(buffer).pool !== this.#name) throw this.#notOurs()
    this.#manager.deallocate(buffer)
  }

  reset() {
    const handle = this.#open()
    const tell = this.#manager.detachAll(handle)
    native.poolReset(handle)
    tell()
  }

  trim() {
    return native.poolTrim(this.#open())
  }

  defragment(options) {
    const handle = this.#open()
    return this.#manager.defragment(handle, check('defragment', options, schemas.defragment))
  }

  stats() {
    return native.poolStats(this.#open())
  }

  [inspect.custom](depth, options) {
    // The prototype, and what merely inherits from a pool.
    if (!(#handle in this)) return inspect(Object.create(null), options)
    const name = `${options.stylize('MemoryPool', 'special')} ${options.stylize(inspect(this.#name), 'string')}`
    if (this.destroyed) return `${name} (${this.#kind}, destroyed)`
    const { allocated, reserved, chunks, liveAllocations, fragmentation } = this.stats()
    const fill = `${human(allocated)} of ${human(reserved)} in ${chunks} ${chunks === 1 ? 'chunk' : 'chunks'}`
    return `${name} (${this.#kind}) { ${fill}, ${liveAllocations} live, ${Math.round(fragmentation * 100)} % fragmented }`
  }

  #allocateWith(handle, size, options) {
    integer('size', size, 1)
    const checked = check('allocate', options, schemas.poolAllocation)
    const { alignment = CACHE_LINE, zeroed = false, movable = false, tag } = checked
    if (movable) return this.#manager.movable(handle, size, alignment, zeroed, tag)
    if (tag === undefined && !zeroed) {
      this.#take(handle, size, alignment)
      this.#heard = this.#manager.listen()
      const block = new MemoryBlock(ours, this.#manager, handle, size)
      if (taken.hasSubscribers) this.#manager.tell(taken, handle, block)
      return block
    }
    // What is cleared or counted by a tag is an allocation of its own, with its ArrayBuffer.
    if (size > MAX_LENGTH) throw tooLong(size, 'nothing was allocated')
    const allocate = () => native.allocateFromPool(handle, size, alignment, zeroed, tag)
    const made = this.#manager.insist(handle, allocate, { size, tag })
    this.#manager.handedOut(made, handle, PLACED)
    const block = new MemoryBlock(ours, this.#manager, handle, size, made)
    if (taken.hasSubscribers) this.#manager.tell(taken, handle, block, tag)
    return block
  }

  #take(handle, size, alignment) {
    try {
      take(handle, size, alignment)
    } catch (refusal) {
      this.#manager.rescue(handle, refusal, () => take(handle, size, alignment), { size })
    }
  }

  #notOurs() {
    return memoryError('ERR_UNKNOWN_BUFFER', `this memory is not of pool ${JSON.stringify(this.#name)}`)
  }

  #open() {
    if (this.#handle === 0) {
      throw memoryError('ERR_POOL_DESTROYED', `pool ${JSON.stringify(this.#name)} was destroyed`)
    }
    return this.#handle
  }

  static {
    // Not instanceof: what merely inherits from a pool is none.
    isPool = (value) => typeof value === 'object' && value !== null && #handle in value
    destroyPool = (pool, force) => {
      const handle = pool.#open()
      const tell = force ? pool.#manager.detachAll(handle) : () => {}
      native.poolDestroy(handle, force)
      pool.#manager.forget(pool)
      pool.#handle = 0
      tell()
    }
    handleOf = (pool) => pool.#handle
    endPool = (pool) => {
      pool.#handle = 0
    }
  }
}

/**
 * A slice of a pool by name: no ArrayBuffer is made until `buffer` is read. Dropping a block whose buffer was never
 * read frees nothing: `free` it, or reset its pool.
 */
class MemoryBlock {
  #manager
  #pool
  /** The slice's name. A chunk of -1: it was freed. */
  #chunk
  #chunkGeneration
  #slot
  #stamp
  #address
  #deviceAddress
  #size
  #pins = 0
  /** The ArrayBuffer, once it was read, and its allocation. */
  #buffer
  #id

  constructor(made, manager, pool, size, exposed) {
    if (made !== ours && made !== unplaced) throw invalid('a MemoryBlock is made by pool.allocate')
    this.#manager = manager
    this.#pool = pool
    this.#size = size
    if (made === unplaced) return
    if (exposed === undefined) {
      this.#chunk = words[CHUNK]
      this.#chunkGeneration = words[CHUNK_GENERATION]
      this.#slot = words[SLOT]
      this.#stamp = words[STAMP]
      this.#address = numbers[ADDRESS]
      this.#deviceAddress = numbers[DEVICE_ADDRESS]
    } else {
      const [buffer, id] = exposed
      const { address, deviceAddress } = manager.describe(buffer)
      this.#chunk = 0
      this.#address = Number(address)
      this.#deviceAddress = deviceAddress === null ? -1 : Number(deviceAddress)
      this.#buffer = buffer
      this.#id = id
    }
  }

  /** The slice's place and time in one number; unique among blocks that live. */
  get id() {
    return this.#address
  }

  get size() {
    return this.#size
  }

  get movable() {
    return false
  }

  get freed() {
    if (this.#chunk !== -1) {
      // A reset, the pool's end or `deallocate(block.buffer)` may have been there before.
      const lives = this.#buffer === undefined ? this.#ask(native.poolHolds) : native.isLive(this.#id)
      if (!lives) this.#chunk = -1
    }
    return this.#chunk === -1
  }

  get buffer() {
    if (this.#buffer !== undefined) return this.#buffer
    if (this.#chunk === -1) throw freedError()
    // Asked for all the same, the runtime would say so by running the finalizer, which frees the block.
    if (this.#size > MAX_LENGTH) throw tooLong(this.#size, 'the block stays as it was')
    const exposed = this.#ask(native.poolExpose)
    this.#id = exposed[1]
    this.#buffer = this.#manager.handedOut(exposed, this.#pool, PLACED)
    if (this.#pins !== 0) native.pinAllocation(this.#id, true)
    return this.#buffer
  }

  get address() {
    return BigInt(this.#address)
  }

  get deviceAddress() {
    return this.#deviceAddress === -1 ? null : BigInt(this.#deviceAddress)
  }

  pin() {
    if (this.freed) throw freedError()
    this.#pins++
    if (this.#pins === 1 && this.#id !== undefined) native.pinAllocation(this.#id, true)
  }

  unpin() {
    if (this.#pins === 0) throw memoryError('ERR_OUT_OF_RANGE', 'this block is not pinned')
    this.#pins--
    if (this.#pins === 0 && this.#id !== undefined) native.pinAllocation(this.#id, false)
  }

  free() {
    if (this.#chunk === -1) throw freedError()
    if ((this.#pins !== 0 || this.#buffer !== undefined) && this.freed) throw freedError()
    if (this.#pins !== 0) {
      throw memoryError('ERR_BUFFER_BUSY', `this block is pinned ${this.#pins} times: it was not freed`, {
        hint: 'unpin it as often as it was pinned',
      })
    }
    if (this.#buffer !== undefined) {
      this.#manager.deallocate(this.#buffer)
      this.#chunk = -1
      return
    }
    this.#give()
    this.#chunk = -1
    if (given.hasSubscribers) this.#manager.tell(given, this.#pool, this)
  }

  [inspect.custom](depth, options) {
    if (!(#chunk in this)) return inspect(Object.create(null), options)
    const at = this.freed ? 'freed' : `at 0x${this.address.toString(16)}`
    return `${options.stylize('MemoryBlock', 'special')} (${human(this.#size)}, ${at})`
  }

  /** A cold call with the slice's name. */
  #ask(verb) {
    return verb(this.#pool, this.#chunk, this.#chunkGeneration, this.#slot, this.#stamp)
  }

  #give() {
    numbers[POOL] = this.#pool
    words[CHUNK] = this.#chunk
    words[CHUNK_GENERATION] = this.#chunkGeneration
    words[SLOT] = this.#slot
    words[STAMP] = this.#stamp
    free()
  }

  static {
    isBlock = (value) => typeof value === 'object' && value !== null && #pool in value
    blockIsOf = (block, pool) => block.#pool === pool
  }
}

/** No place is lost to an ArrayBuffer that this runtime would not make. */
function tooLong(size, outcome) {
  return outOfRange(`this runtime makes no ArrayBuffer of ${human(size)}; ${outcome}`, {
    requested: size,
    hint: 'use smaller blocks, or Node 22 or later',
  })
}

const freedError = () => memoryError('ERR_BUFFER_FREED', 'this block was freed already')

if (Symbol.dispose !== undefined) {
  const method = (value) => ({ value, configurable: true, writable: true })
  Object.defineProperty(
    MemoryPool.prototype,
    Symbol.dispose,
    method(function dispose() {
      if (!this.destroyed) destroyPool(this, true)
    }),
  )
  Object.defineProperty(
    MemoryBlock.prototype,
    Symbol.dispose,
    method(function dispose() {
      if (!this.freed) this.free()
    }),
  )
}

/** For the manager: the JavaScript face of the native pool `handle`. */
const makePool = (name, kind, handle, manager) => new MemoryPool(ours, name, kind, handle, manager)

module.exports = { MemoryPool, MemoryBlock, makePool, isPool, destroyPool, endPool, freedError, handleOf, raised, tooLong, unplaced }
