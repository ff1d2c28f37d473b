'use strict'

// Resolves a caller's buffer argument, and explains why a buffer shows no bytes any more.
//
// The native part finds live buffers by address. A detached ArrayBuffer has no address: it is known by object identity
// only, which is good enough for an error message and for nothing else.

const { isArrayBuffer, isDataView, isSharedArrayBuffer } = require('node:util/types')
const { memoryError } = require('./errors.js')
const { invalid, formatValue } = require('./options.js')

// Taken before user code can replace them.
const { isView } = ArrayBuffer
const { apply, getOwnPropertyDescriptor, getPrototypeOf } = Reflect
/**
 * @param {object} prototype
 * @param {string} name
 * @returns {(object: unknown) => any}
 */
const getter = (prototype, name) => {
  const get = /** @type {Function} */ (getOwnPropertyDescriptor(prototype, name)?.get)
  return (object) => apply(get, object, [])
}
const byteLengthOf = getter(ArrayBuffer.prototype, 'byteLength')
const bufferOfTypedArray = getter(/** @type {object} */ (getPrototypeOf(Uint8Array.prototype)), 'buffer')
const bufferOfDataView = getter(DataView.prototype, 'buffer')

/**
 * ArrayBuffer → its native allocation, for every buffer handed out in this environment.
 *
 * @type {WeakMap<ArrayBuffer, number>}
 */
const handles = new WeakMap()

/**
 * @typedef {object} Blocks `pools/block.js` sets it: this room imports no blocks.
 * @property {(value: unknown) => value is { buffer: ArrayBuffer, freed: boolean, free(): void }} isBlock
 * @property {(block: any) => object} allocatorOf the allocator of the block's manager
 */
/** @type {Blocks} */
let blocks = { isBlock: /** @type {any} */ (() => false), allocatorOf: (block) => block }

/** @param {Blocks} access */
function acceptBlocks(access) {
  blocks = access
}

/** @type {Blocks['isBlock']} */
const isBlock = (value) => blocks.isBlock(value)
/** @type {Blocks['allocatorOf']} */
const allocatorOf = (block) => blocks.allocatorOf(block)

/**
 * Returns the ArrayBuffer that `value` is, or is a view of; of other values, the value itself.
 *
 * @param {unknown} value
 */
function underlying(value) {
  if (!isView(value)) return value
  return isDataView(value) ? bufferOfDataView(value) : bufferOfTypedArray(value)
}

/**
 * Returns the ArrayBuffer that `value` is, is a view of, or is the block of.
 *
 * @param {unknown} value
 * @returns {ArrayBuffer}
 */
function arrayBufferOf(value) {
  const buffer = blocks.isBlock(value) ? value.buffer : underlying(value)
  if (isArrayBuffer(buffer)) return buffer
  if (isSharedArrayBuffer(buffer)) throw invalid('a SharedArrayBuffer is never memory of a MemoryManager')
  throw invalid(`the buffer must be an ArrayBuffer, a view of one or a MemoryBlock, not ${formatValue(value)}`)
}

/**
 * Remembers that `buffer` was handed out over the native allocation `handle`.
 *
 * @param {ArrayBuffer} buffer
 * @param {number} handle
 */
function remember(buffer, handle) {
  handles.set(buffer, handle)
}

/**
 * Returns the native allocation of a buffer that was handed out; 0 for any other.
 *
 * @param {ArrayBuffer} buffer
 */
const handleOf = (buffer) => handles.get(buffer) ?? 0

/**
 * Makes the error for a buffer that is detached or empty.
 *
 * @param {ArrayBuffer} buffer
 * @param {(handle: number) => boolean} isLive
 */
function detachedError(buffer, isLive) {
  const handle = handles.get(buffer)
  if (handle === undefined) {
    return memoryError('ERR_UNKNOWN_BUFFER', 'this ArrayBuffer is empty or detached, and no MemoryManager made it')
  }
  if (isLive(handle)) {
    return memoryError('ERR_BUFFER_TRANSFERRED', 'the bytes of this buffer were moved to another ArrayBuffer', {
      hint: 'deallocate that one, or drop it: the memory goes when it is collected',
    })
  }
  return memoryError('ERR_BUFFER_FREED', 'this buffer was freed already')
}

module.exports = {
  acceptBlocks,
  allocatorOf,
  arrayBufferOf,
  byteLengthOf,
  detachedError,
  handleOf,
  isBlock,
  remember,
  underlying,
}
