/** Reclaiming memory: memory pressure, automatic cleanup and optimization. */

import type { DefragmentOptions, DefragmentResult } from './compaction.js'

/** Memory pressure, as the kernel reports it. */
export interface MemoryPressure {
  /**
   * Level in PSI's terms: `some` tasks waited for memory, or all runnable tasks did (`full`). Without PSI the level
   * follows from available RAM: less than a tenth of it, or less than a 32nd.
   */
  level: 'some' | 'full'
  /** Bytes that were available before the cleanup. */
  available: number
  /** Bytes that the cleanup released. */
  released: number
}

/** Settings of automatic cleanup. */
export interface CleanupOptions {
  /**
   * On memory pressure, releases empty slabs and chunks, and compacts the pools from which a chunk can be emptied, in
   * slices of half a millisecond. 'pressure' is emitted either way. Default true.
   */
  onPressure?: boolean
  /**
   * Before an allocation fails for lack of memory, releases empty slabs and chunks, compacts, and retries once. If the
   * retry fails too, the `hint` of the error names the attempts. An asynchronous allocation also forces a garbage
   * collection, for the buffers that the program dropped, and is tried three times in all. With false, allocations of
   * both kinds are refused at once: nothing is compacted, and no collection is forced. Default true.
   */
  onExhaustion?: boolean
  /**
   * Compacts a pool whose fragmentation exceeds this share, some time after one of its movable blocks was freed, in
   * slices of half a millisecond. null turns this off. Default 0.5.
   */
  defragmentAbove?: number | null
}

/** Options of `MemoryManager.optimizeMemory`. */
export interface OptimizeOptions {
  /** Releases empty slabs and empty chunks of pools. Compaction trims its pool in any case. Default true. */
  trim?: boolean
  /** Compacts every pool that has movable blocks. Default true. */
  defragment?: boolean | DefragmentOptions
}

/** Result of `MemoryManager.optimizeMemory`. */
export interface OptimizeResult {
  bytesFreed: number
  bytesMoved: number
  /** Results by name of pool. */
  pools: Record<string, DefragmentResult>
  durationMs: number
}
