'use strict'

// Implements `pool.allocateAsync` and `allocateFromPoolAsync`. A slice that needs no driver is allocated at once; for
// another one, a thread grows the pool or clears the bytes.

const { MAX_LENGTH } = require('node:buffer').constants
const native = require('../core/binding.js')
const { channels } = require('../core/diagnostics-channels.js')
const fastPath = require('../core/fast-path.js')
const { invalid } = require('../core/options.js')
const { MemoryBlock, tooLongError } = require('./block.js')
const { MovableBlock } = require('./movable-block.js')
const { kConstruct } = require('./pool-host.js')

const { ADDRESS, ALIGNMENT, CHUNK, CHUNK_GENERATION, DEVICE_ADDRESS, FLAGS, ID, POOL } = fastPath
const { SIZE, SLOT, SLOT_GENERATION, TAG, allocateWith, numbers, words } = fastPath

/** The flags of `allocateWith`: zeroed, not cleared, without a driver. */
const [ZEROED, UNCLEARED, RESIDENT] = [1, 2, 4]

/**
 * @typedef {import('./pool-host.js').PoolHost} PoolHost
 * @typedef {object} Request
 * @property {() => number} open returns the native pool, or throws
 * @property {number} size
 * @property {number} [alignment]
 * @property {boolean} [zeroed]
 * @property {boolean} [movable]
 * @property {string} [tag]
 * @property {AbortSignal} [signal]
 */
/**
 * The two ways to allocate.
 *
 * @template Made, T
 * @typedef {object} Ways
 * @property {() => Made | null | undefined} now answers nothing if the request may have to wait for a driver
 * @property {() => { promise: Promise<Made | undefined>, task: number }} later answers nothing after a reset
 * @property {(made: Made) => T} take makes the caller's value
 * @property {(made: Made) => void} giveBack
 */

/**
 * @param {PoolHost} host
 * @param {Request} request
 * @param {(tag: string) => number} tagId the number of a tag in the native pool
 * @returns {Promise<MemoryBlock>}
 */
function allocateBlock(host, request, tagId) {
  return request.movable
    ? allocate(host, request, published(host, request, movableWays(host, request)))
    : allocate(host, request, published(host, request, ways(host, request, tagId)))
}

/**
 * Publishes the block that `take` hands out.
 *
 * @template Made
 * @param {PoolHost} host
 * @param {Request} request
 * @param {Ways<Made, MemoryBlock>} ways
 * @returns {Ways<Made, MemoryBlock>}
 */
function published(host, { open, tag }, ways) {
  const take = (/** @type {Made} */ made) => {
    const block = ways.take(made)
    host.notifications.poll()
    if (channels.allocate.hasSubscribers) host.publisher.block(channels.allocate, open(), block, tag)
    return block
  }
  return { ...ways, take }
}

/**
 * @param {PoolHost} host
 * @param {Request} request
 * @returns {Promise<ArrayBuffer>}
 */
function allocateBuffer(host, request) {
  const { open, size, alignment, zeroed, movable, tag } = request
  // The holder of an ArrayBuffer alone could not follow its bytes.
  if (movable) {
    throw invalid('an ArrayBuffer cannot be movable', 'pool.allocate(size, { movable: true }) gives a block that is')
  }
  if (size > MAX_LENGTH) throw tooLongError(size, 'nothing was allocated')
  const pool = open()
  return allocate(host, request, {
    now: () => native.allocateFromPool(open(), size, alignment, zeroed, tag, true),
    later: () => native.allocateFromPoolAsync(open(), size, alignment, zeroed, tag),
    take: (made) => host.allocator.allocated(made, pool),
    giveBack: (made) => host.allocator.giveBack(made),
  })
}

/**
 * @template Made, T
 * @param {PoolHost} host
 * @param {Request} request
 * @param {Ways<Made, T>} ways
 * @returns {Promise<T>}
 */
function allocate({ asyncAllocations, tasks }, { open, size, tag, signal }, { now, later, take, giveBack }) {
  const attempt = async () => {
    const made = now()
    if (made != null) return take(made)
    for (;;) {
      const value = await tasks.run(
        later,
        signal,
        (made) => made && take(made),
        (made) => made && giveBack(made),
      )
      if (value !== undefined) return value
    }
  }
  return asyncAllocations.allocate(attempt, { size, tag }, signal, open())
}

/**
 * @param {PoolHost} host
 * @param {Request} request
 * @param {(tag: string) => number} tagId
 * @returns {Ways<number[] | true, MemoryBlock>}
 */
function ways(host, { open, size, alignment = 64, zeroed, tag }, tagId) {
  const pool = open()
  const idOf = () => (tag === undefined ? -1 : tagId(tag))
  const take = (/** @type {number[] | true} */ made) => {
    if (made !== true) writeSlice(made)
    return new MemoryBlock(kConstruct, host, pool, size)
  }
  return {
    now() {
      const id = idOf()
      numbers[POOL] = open()
      numbers[SIZE] = size
      numbers[ALIGNMENT] = alignment
      words[TAG] = id
      words[FLAGS] = RESIDENT | (zeroed === undefined ? 0 : zeroed ? ZEROED : UNCLEARED)
      allocateWith()
      return words[FLAGS] === 1 || null
    },
    later: () => native.poolAllocateAsync(open(), size, alignment, zeroed, idOf()),
    take,
    giveBack: (made) => take(made).free(),
  }
}

/**
 * Writes the numbers of a slice where `MemoryBlock` reads them.
 *
 * @param {number[]} slice
 */
function writeSlice([address, deviceAddress, chunk, chunkGeneration, slot, slotGeneration, id]) {
  numbers[ADDRESS] = address
  numbers[DEVICE_ADDRESS] = deviceAddress
  words[CHUNK] = chunk
  words[CHUNK_GENERATION] = chunkGeneration
  words[SLOT] = slot
  words[SLOT_GENERATION] = slotGeneration
  numbers[ID] = id
}

/**
 * @param {PoolHost} host
 * @param {Request} request
 * @returns {Ways<[handle: number, id: number], MemoryBlock>}
 */
function movableWays(host, { open, size, alignment, zeroed, tag }) {
  const pool = open()
  return {
    now: () => native.movableAllocate(open(), size, alignment, zeroed, tag, true),
    later: () => native.movableAllocateAsync(open(), size, alignment, zeroed, tag),
    take: (made) => new MovableBlock(host, pool, size, made, tag),
    giveBack: ([handle]) => native.movableFree(pool, handle),
  }
}

module.exports = { allocateBlock, allocateBuffer }
