/** Blocks: handles of the slices of a pool. */

import type { MemoryManager } from './manager.js'
import type { MemoryPool } from './pools.js'

/** A slice of a pool. Made by {@link MemoryPool.allocate}. */
export class MemoryBlock {
  private constructor()
  /** Unique among the movable blocks of a pool that live, or among the others. It stays when the block is moved. */
  readonly id: number
  /** Bytes asked for. */
  readonly size: number
  /** Compaction may move it: then read `buffer` and `address` afresh each time, or pin it. */
  readonly movable: boolean
  readonly freed: boolean
  /** Made when it is first read. @throws ERR_BUFFER_FREED */
  readonly buffer: ArrayBuffer
  /** CPU address; pins are the caller's duty while native code holds it. @throws ERR_BUFFER_FREED when it is movable and freed. */
  readonly address: bigint
  readonly deviceAddress: bigint | null
  /**
   * While pinned it can be neither freed nor moved, not by `deallocate(block.buffer)` either. Pins nest. They do not keep it from `reset`,
   * `destroyMemoryPool(..., { force: true })` and `dispose`. @throws ERR_BUFFER_FREED
   */
  pin(): void
  /** @throws ERR_OUT_OF_RANGE when it is not pinned. */
  unpin(): void
  /** @throws ERR_BUFFER_FREED, ERR_BUFFER_BUSY while it is pinned, and those of {@link MemoryManager.deallocate}. */
  free(): void
  [Symbol.dispose](): void
}
