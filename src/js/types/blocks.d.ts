/** Blocks: the handles of slices of a pool. */

import type { MemoryManager } from './manager.js'
import type { MemoryPool } from './pools.js'

/** A slice of a pool. Made by {@link MemoryPool.allocate}. */
export class MemoryBlock {
  private constructor()
  /**
   * The block's id in every output. No other allocation of this process ever has it. A move keeps it, and the
   * block's buffer has it too ({@link BufferInfo.id}).
   */
  readonly id: number
  /** Requested bytes. */
  readonly size: number
  /** Whether compaction may move the block. If so, read `buffer` and `address` afresh each time, or pin the block. */
  readonly movable: boolean
  readonly freed: boolean
  /**
   * The block's ArrayBuffer, made when it is first read. If the bytes were moved to another ArrayBuffer while the block
   * was pinned, and the collector took that one, a new one is made.
   *
   * @throws ERR_BUFFER_FREED.
   */
  readonly buffer: ArrayBuffer
  /**
   * CPU address. The caller must pin the block while native code holds the address.
   *
   * @throws ERR_BUFFER_FREED.
   */
  readonly address: bigint
  /**
   * The NPU's address; null if there is none.
   *
   * @throws ERR_BUFFER_FREED.
   */
  readonly deviceAddress: bigint | null
  /**
   * Pins the block's memory. Neither `free`, nor `deallocate(block.buffer)`, nor compaction touches it, and neither the
   * garbage collector nor the end of a thread frees it, whatever happens to the block and its ArrayBuffer (`transfer`,
   * a BYOB read, `structuredClone`). `reset`, `destroyMemoryPool(..., { force: true })` and `dispose` free pinned
   * blocks too. Pins nest.
   *
   * @throws ERR_BUFFER_FREED.
   *
   * @example
   * const memory = new MemoryManager({ backend: 'simulated' })
   * const pool = memory.createMemoryPool({ name: 'jobs', initialSize: 1 << 20 })
   * const block = pool.allocate(4096)
   * block.pin() // before native code gets block.address
   * try {
   *   block.free()
   * } catch (error) {
   *   error.code // => 'ERR_BUFFER_BUSY'
   * }
   * block.unpin() // when it is done
   * block.free()
   * memory.dispose()
   */
  pin(): void
  /**
   * Removes one pin.
   *
   * @throws ERR_OUT_OF_RANGE: the block is not pinned; ERR_BUFFER_FREED: the block was freed, with its pins.
   */
  unpin(): void
  /**
   * Frees the block and detaches its ArrayBuffer.
   *
   * @throws ERR_BUFFER_FREED; ERR_BUFFER_BUSY: the block is pinned; and the errors of {@link MemoryManager.deallocate}.
   */
  free(): void
  [Symbol.dispose](): void
}

/**
 * Removes all pins of a block that JavaScript has dropped, by its id, which frees the block. Use it when native code is
 * done with memory that no object can unpin any more: the ids are in 'leak', {@link MemoryManager.takeSnapshot} and
 * reports. Finds the blocks of all managers of this process, also of those whose thread ended.
 *
 * @throws {MemoryError} ERR_OUT_OF_RANGE: no pinned block has that id; ERR_BUFFER_BUSY: the block still exists.
 */
export function unpinDropped(id: number): void
