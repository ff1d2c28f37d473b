/** Reclaiming memory: memory pressure, cleanup and optimization. */

import type { DefragmentOptions, DefragmentResult } from './compaction.js'

/** Memory is short. */
export interface MemoryPressure {
  /** As PSI says it: some tasks waited for memory, or all that could run did. Without PSI: below a tenth of RAM, or a 32nd, is available. */
  level: 'some' | 'full'
  /** Bytes that could still be taken, before the cleanup. */
  available: number
  /** Bytes that the cleanup gave back in answer. */
  released: number
}

/** What a manager does by itself. */
export interface CleanupOptions {
  /**
   * When the kernel reports memory pressure: give empty slabs and chunks back, and compact pools of which a chunk can be emptied, in
   * slices of half a millisecond. Default true. `'pressure'` is emitted either way.
   */
  onPressure?: boolean
  /**
   * Before an allocation fails for want of memory: give empty slabs and chunks back, compact, and try once more. The error that
   * comes after all says in its `hint` what was tried. Default true.
   */
  onExhaustion?: boolean
  /**
   * Compact a pool whose fragmentation passes this share, some time after one of its movable blocks was freed, in slices of half a
   * millisecond. Default 0.5; null: never by itself.
   */
  defragmentAbove?: number | null
}

export interface OptimizeOptions {
  /** Give empty slabs, and empty chunks of pools, back. Default true; compacting a pool trims it in any case. */
  trim?: boolean
  /** Compact every pool that has movable blocks. Default true. */
  defragment?: boolean | DefragmentOptions
}

export interface OptimizeResult {
  bytesFreed: number
  bytesMoved: number
  /** By pool. */
  pools: Record<string, DefragmentResult>
  durationMs: number
}
