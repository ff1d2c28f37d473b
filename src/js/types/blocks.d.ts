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
   * The block's ArrayBuffer, made when it is first read.
   *
   * @throws ERR_BUFFER_FREED.
   */
  readonly buffer: ArrayBuffer
  /**
   * CPU address. The caller must pin the block while native code holds the address.
   *
   * @throws ERR_BUFFER_FREED: the block is movable and was freed.
   */
  readonly address: bigint
  readonly deviceAddress: bigint | null
  /**
   * Pins the block: neither `free`, nor `deallocate(block.buffer)`, nor compaction touches it. Pins nest. `reset`,
   * `destroyMemoryPool(..., { force: true })` and `dispose` free pinned blocks too.
   *
   * @throws ERR_BUFFER_FREED.
   */
  pin(): void
  /**
   * Removes one pin.
   *
   * @throws ERR_OUT_OF_RANGE: the block is not pinned.
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
