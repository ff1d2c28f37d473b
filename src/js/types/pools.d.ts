/** Pools: few large pieces of memory, cut into slices. */

import type {
  AllocationOptions,
  Buf,
  MemoryKind,
  NPUAllocationOptions,
  SystemAllocationOptions,
} from './allocations.js'
import type { MemoryBlock } from './blocks.js'
import type { DefragmentOptions, DefragmentResult } from './compaction.js'
import type { MemoryManager } from './manager.js'
import type { PoolStats } from './stats.js'

export interface MemoryPoolOptions {
  /** Unique in its manager. */
  name: string
  /** Default 'npu'. */
  kind?: MemoryKind
  /** Reserved at once, and kept until the pool ends. */
  initialSize: number
  /** Grows by chunks up to here. Default: initialSize (a fixed pool). */
  maxSize?: number
  /** What it grows by; a larger request has a chunk of its own size. Default: initialSize. */
  chunkSize?: number
  /** Fixed-size blocks instead of variable ones; a request takes one of them. Rounded up to the alignment. */
  blockSize?: number
  /** Of every slice: a power of two, 64 to 1 GiB. Default 64. */
  alignment?: number
  /** Accounts the bytes of its chunks. A slice may name a tag of its own, which accounts the slice. */
  tag?: string
  /** How its chunks are made. `zeroed: false` leaves them as the driver gave them. */
  allocation?: NPUAllocationOptions | SystemAllocationOptions
}

/** `alignment`: at most the page size, or the pool's own. `zeroed`: default false, the last owner's bytes are there. */
export interface PoolAllocationOptions extends AllocationOptions {
  /**
   * Compaction may move it: read `block.buffer` afresh each time. Default false. Only {@link MemoryPool.allocate} takes it: whoever
   * has an ArrayBuffer and nothing else could not know where its bytes went (`ERR_INVALID_ARG_TYPE`).
   */
  movable?: boolean
}

/** Slices of few large pieces of memory. Made by {@link MemoryManager.createMemoryPool}. Every method throws ERR_POOL_DESTROYED after its end. */
export class MemoryPool {
  private constructor()
  readonly name: string
  readonly kind: MemoryKind
  readonly destroyed: boolean

  /**
   * The fast path: a handle; no ArrayBuffer is made until `.buffer` is read. Free it: a block whose buffer was never read
   * is not freed by the garbage collector.
   *
   * @throws those of {@link MemoryManager.allocateFromPool}.
   */
  allocate(size: number, options?: PoolAllocationOptions): MemoryBlock

  /** The same as {@link MemoryManager.allocateFromPool}. */
  allocateBuffer(size: number, options?: PoolAllocationOptions): ArrayBuffer

  /** @throws ERR_UNKNOWN_BUFFER for another pool's, and those of {@link MemoryManager.deallocate}. */
  deallocate(memory: MemoryBlock | Buf): void

  /** Frees (and detaches) everything in the pool at once; keeps the memory. */
  reset(): void

  /** Gives empty chunks back to the device, down to initialSize; returns the bytes. By itself a pool keeps one. */
  trim(): number

  /**
   * Moves movable blocks together, from the last chunks into the first holes, then gives empty chunks back. Views of a block
   * that was moved are detached: `block.buffer` gives the next one. Blocks that are pinned, and those whose bytes were moved to
   * another ArrayBuffer (`transfer()`), stay. Nothing else has to stand still meanwhile, and stopping half-way leaves the pool valid.
   */
  defragment(options?: DefragmentOptions): DefragmentResult

  /** Exact, whatever its state. */
  stats(): PoolStats

  /** Destroys it by force. */
  [Symbol.dispose](): void
}
