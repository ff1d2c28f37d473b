/** Pools: few large pieces of memory, cut into slices. */

import type {
  AllocationOptions,
  Buf,
  Cancellable,
  MemoryKind,
  NPUAllocationOptions,
  SystemAllocationOptions,
} from './allocations.js'
import type { MemoryBlock } from './blocks.js'
import type { DefragmentOptions, DefragmentResult } from './compaction.js'
import type { MemoryManager } from './manager.js'
import type { PoolStats } from './stats.js'

/** Options of {@link MemoryManager.createMemoryPool}. */
export interface MemoryPoolOptions {
  /** Name, unique in its manager and not empty. */
  name: string
  /** Default 'npu'. */
  kind?: MemoryKind
  /** Bytes that the pool reserves at once and keeps until its end. */
  initialSize: number
  /** Most bytes that the pool grows to, chunk by chunk. Default: `initialSize` (a fixed pool). */
  maxSize?: number
  /** Bytes of a further chunk. A larger request gets a chunk of its own size. Default: `initialSize`. */
  chunkSize?: number
  /**
   * Bytes of a block, for a pool of fixed-size blocks in place of variable ones. Each request takes one block. Rounded
   * up to the alignment.
   */
  blockSize?: number
  /** Alignment of every slice: a power of two, 64 bytes to 1 GiB. Default 64. */
  alignment?: number
  /** Tag that accounts the bytes of the pool's chunks. A slice may have its own tag, which accounts the slice. */
  tag?: string | null
  /**
   * For how long the bytes of a freed slice are not used again, in ms, if its ArrayBuffer was read: an operation in
   * flight (a write to a socket or file, zlib) may still use them. The slice also waits for some turns of the event
   * loop. It waits no longer where the pool would fail, or pass `maxSize` or a limit, without it. Longer operations
   * need {@link MemoryManager.deallocateWhen}. 0: the bytes are used again at once. At most a day. Default 2000.
   */
  reuseAfterMs?: number
  /**
   * Grows in the background when less than this share of the pool's bytes is free (0.25: a quarter), so that a
   * synchronous allocation seldom waits for the driver. Never beyond `maxSize` or a limit. A growth that fails is
   * counted (`stats().failedAhead`) and tried again after a second at the earliest. 0 to less than 1. Default 0: only
   * when needed.
   */
  growAhead?: number
  /** Allocation options of the chunks. `zeroed: false` leaves the chunks as the driver returned them. */
  allocation?: NPUAllocationOptions | SystemAllocationOptions
}

/**
 * Options of an allocation from a pool. `alignment` is at most the page size, or the pool's own.
 *
 * Without `zeroed`, a slice holds the bytes of its last owner only if that had the same tag; no tag is a tag of its own
 * kind. Bytes of owners with another tag are cleared first. `zeroed: true` clears the slice in any case, `zeroed:
 * false` leaves it as it is.
 */
export interface PoolAllocationOptions extends AllocationOptions {
  /**
   * Lets compaction move the block. The caller must read `block.buffer` afresh each time. Only
   * {@link MemoryPool.allocate} takes this option: a bare ArrayBuffer could not tell its holder where the bytes went
   * (`ERR_INVALID_ARG_TYPE`). Default false.
   */
  movable?: boolean
}

/**
 * A pool of slices. Made by {@link MemoryManager.createMemoryPool}. Every method throws ERR_POOL_DESTROYED once the
 * pool is destroyed.
 *
 * @example
 * const memory = new MemoryManager({ backend: 'simulated' })
 * const pool = memory.createMemoryPool({ name: 'kv-cache', initialSize: 1 << 20, maxSize: 4 << 20 })
 * const block = pool.allocate(1000)
 * new Uint16Array(block.buffer).fill(7)
 * pool.stats().requested // => 1000
 * block.free()
 * pool.stats().requested // => 0
 * memory.dispose()
 */
export class MemoryPool {
  private constructor()
  readonly name: string
  readonly kind: MemoryKind
  readonly destroyed: boolean

  /**
   * Allocates a slice as a handle. This is the fast path, also with `tag`, `zeroed` and `alignment`: it makes no
   * ArrayBuffer until `.buffer` is read.
   *
   * The caller must free the block. The garbage collector does not free a block whose buffer was never read, movable
   * ones included, nor one that is pinned.
   *
   * @throws the errors of {@link MemoryManager.allocateFromPool}.
   */
  allocate(size: number, options?: PoolAllocationOptions): MemoryBlock

  /**
   * Allocates like {@link allocate}. If the pool must grow, or the slice be cleared, another thread waits for the
   * driver; else the block is there in the next turn of promises.
   *
   * At exhaustion it waits, and at an abort of `signal` it ends, as {@link MemoryManager.allocateNPUMemoryAsync} does.
   * A `reset` meanwhile does not free it.
   */
  allocateAsync(size: number, options?: PoolAllocationOptions & Cancellable): Promise<MemoryBlock>

  /** Allocates a slice as an ArrayBuffer, as {@link MemoryManager.allocateFromPool} does. */
  allocateBuffer(size: number, options?: PoolAllocationOptions): ArrayBuffer
  /** Allocates a slice as an ArrayBuffer, as {@link MemoryManager.allocateFromPoolAsync} does. */
  allocateBufferAsync(size: number, options?: PoolAllocationOptions & Cancellable): Promise<ArrayBuffer>

  /**
   * Frees a slice of this pool.
   *
   * @throws ERR_UNKNOWN_BUFFER: the slice belongs to another pool; and the errors of {@link MemoryManager.deallocate}.
   */
  deallocate(memory: MemoryBlock | Buf): void

  /** Frees all slices of the pool and detaches their ArrayBuffers. The pool keeps its chunks. */
  reset(): void

  /**
   * Releases empty chunks to the device, down to `initialSize`, and returns the bytes. Without this call a pool keeps
   * one empty chunk.
   */
  trim(): number

  /**
   * Compacts the pool: moves movable blocks from the last chunks into the first gaps, then releases empty chunks.
   *
   * A move detaches the views of its block, and `block.buffer` returns the new ArrayBuffer. Pinned blocks stay, and so
   * do blocks whose bytes were moved to another ArrayBuffer (`transfer()`). The pool stays usable meanwhile, and valid
   * when compaction stops half-way.
   */
  defragment(options?: DefragmentOptions): DefragmentResult

  /** Returns the exact figures of the pool, in any state. */
  stats(): PoolStats

  /** Destroys the pool by force. */
  [Symbol.dispose](): void
}
