'use strict'

// Memory by the ways in which librknnrt takes it: a part of a dma-buf, of a physical range, or an MB_BLK.

const { memoryError } = require('../core/errors.js')
const { outOfRange } = require('../core/options.js')
const { closeDmaBuf } = require('../sharing/inbox.js')
const { MAX_OFFSET } = require('./spec.js')

/**
 * @typedef {import('../types/manager.js').MemoryManager} MemoryManager
 * @typedef {import('../types/rknn.js').RknnTensorMemory} TensorMemory
 * @typedef {import('../types/rknn.js').RknnFunction} RknnFunction
 */

/**
 * @typedef {object} Region
 * @property {ArrayBuffer | null} buffer null for memory that the program gave by address
 * @property {number} byteOffset of the region in `buffer`
 * @property {bigint} address of the first byte
 * @property {number} bytes
 * @property {(handle: bigint, bytes: number) => [name: RknnFunction, args: Array<bigint | number>]} create the call
 * that makes an rknn_tensor_mem of its first bytes
 */

/** Opens regions, and closes the descriptors that it exported for them. */
class Regions {
  #manager
  #via
  /** @type {Set<number>} */
  #fds = new Set()

  /**
   * @param {MemoryManager} manager
   * @param {'fd' | 'phys'} via
   */
  constructor(manager, via) {
    this.#manager = manager
    this.#via = via
  }

  /** The descriptors to close. It is the set itself: a finalizer holds it, not the regions. */
  get fds() {
    return this.#fds
  }

  /**
   * A region over NPU memory of the manager, or a part of it.
   *
   * @param {string} what
   * @param {import('../types/allocations.js').Buf} part
   * @returns {Region}
   */
  ofBuffer(what, part) {
    const { buffer, byteOffset, bytes, address, info } = this.#located(what, part)
    const region = { buffer, byteOffset, address, bytes }
    if (this.#via === 'phys') {
      const { deviceAddress } = info
      if (deviceAddress === null || !info.contiguous) {
        throw memoryError('ERR_UNSUPPORTED', `${what} has no physical address: it is not contiguous`, {
          hint: "leave via out, or 'fd'",
        })
      }
      const physical = deviceAddress + BigInt(byteOffset)
      return { ...region, create: (handle, size) => ['rknn_create_mem_from_phys', [handle, physical, address, size]] }
    }
    const { fd, at, base } = this.#exported(what, buffer, byteOffset, address)
    return { ...region, create: (handle, size) => ['rknn_create_mem_from_fd', [handle, fd, base, size, at]] }
  }

  /**
   * A model's buffer: its address, and its place in a dma-buf.
   *
   * @param {string} what
   * @param {import('../types/allocations.js').Buf} part
   */
  ofModel(what, part) {
    const { buffer, byteOffset, address, bytes } = this.#located(what, part)
    const { fd, at } = this.#exported(what, buffer, byteOffset, address)
    return { address, bytes, fd, offset: at }
  }

  /**
   * @param {string} what
   * @param {import('../types/allocations.js').Buf} part
   */
  #located(what, part) {
    const isView = ArrayBuffer.isView(part)
    const buffer = /** @type {ArrayBuffer} */ (isView ? part.buffer : part)
    const [byteOffset, bytes] = [isView ? part.byteOffset : 0, part.byteLength]
    const info = this.#manager.describe(buffer)
    if (info.kind !== 'npu') {
      throw memoryError('ERR_BUFFER_KIND', `${what} is system memory, which the NPU does not see`, {
        hint: 'allocate it with allocateNPUMemory, or in a pool of NPU memory',
      })
    }
    return { buffer, byteOffset, bytes, address: info.address + BigInt(byteOffset), info }
  }

  /**
   * Exports a buffer. Returns the descriptor, the place of the part in it, and the address of the whole dma-buf, which
   * the runtime wants.
   *
   * @param {string} what
   * @param {ArrayBuffer} buffer
   * @param {number} byteOffset
   * @param {bigint} address
   */
  #exported(what, buffer, byteOffset, address) {
    const { fd, offset } = this.#manager.exportDmaBuf(buffer)
    this.#fds.add(fd)
    const at = offset + byteOffset
    if (at > MAX_OFFSET) {
      throw outOfRange(`${what} begins at ${at} of its dma-buf; rknn_api.h counts up to ${MAX_OFFSET}`, {
        requested: at,
        limit: MAX_OFFSET,
        hint: 'allocate it with dedicated: true',
      })
    }
    return { fd, at, base: address - BigInt(at) }
  }

  /**
   * A region over memory that the program gave for a tensor.
   *
   * @param {string} what
   * @param {Exclude<TensorMemory, { from: any }>} memory
   * @returns {Region}
   */
  ofMemory(what, memory) {
    if ('buffer' in memory) return this.ofBuffer(what, memory.buffer)
    if ('mbBlk' in memory) {
      const { mbBlk, offset = 0, size } = memory
      const call = /** @type {const} */ ('rknn_create_mem_from_mb_blk')
      const create = (/** @type {bigint} */ handle) => /** @type {any} */ ([call, [handle, mbBlk, offset]])
      return { buffer: null, byteOffset: 0, address: 0n, bytes: size, create }
    }
    const { physical, address, size: bytes } = memory
    const call = /** @type {const} */ ('rknn_create_mem_from_phys')
    return {
      buffer: null, byteOffset: 0, address, bytes,
      create: (handle, size) => [call, [handle, physical, address, size]],
    }
  }

  /**
   * Refuses a region that is shorter than what the runtime reads or writes.
   *
   * @param {string} what
   * @param {Region} region
   * @param {number} bytes
   */
  static expect(what, region, bytes) {
    if (region.bytes >= bytes) return
    const message = `${what} needs ${bytes} bytes, and the memory for it has ${region.bytes}`
    throw outOfRange(message, {
      requested: bytes,
      limit: region.bytes,
      hint: 'give a larger buffer, or leave memory out: the manager allocates what is needed',
    })
  }

  close() {
    closeAll(this.#fds)
  }
}

/**
 * Closes descriptors, and forgets them.
 *
 * @param {Set<number>} fds
 */
function closeAll(fds) {
  for (const fd of fds) {
    fds.delete(fd)
    closeDmaBuf(fd)
  }
}

module.exports = { Regions, closeAll }
