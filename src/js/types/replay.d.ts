/** Replay of recorded event logs against pools of other sizes. */

import type { MemoryKind } from './allocations.js'

/** The part of an event that a replay reads. `kind`, `pool` and `tag` are optional. */
export interface ReplayEvent {
  /**
   * 'allocate', 'free' or 'collect', or the names of RMM and PyTorch for them, in any case. 'fail', 'grow', 'trim' and
   * 'move' change nothing; others are counted as not understood.
   */
  type: string
  /** Unique among the live allocations of the same kind and pool. */
  id: number | string
  /** Requested bytes. */
  size: number
  kind?: MemoryKind | null
  pool?: string | null
  tag?: string | null
}

/** Options of {@link replayEventLog}. Sizes are bytes, rounded up to the alignment or to whole blocks as in a pool. */
export interface ReplayOptions {
  /**
   * Size limit of the pool. The pool reserves all of it at once, unless `chunkSize` or `initialSize` lets it grow.
   * Default: the smallest capacity that serves every request; for a pool that grows, no limit.
   */
  capacity?: number
  /** Alias of `capacity`. */
  maxSize?: number
  /** Default 'tlsf', or 'fixed' with a `blockSize`. */
  suballocator?: 'tlsf' | 'fixed'
  /** Size of every block, for a pool of fixed-size blocks. */
  blockSize?: number
  /** Bytes that the pool grows by. Default: `initialSize`. */
  chunkSize?: number
  /** Bytes that the pool starts with. Default 0 with a `chunkSize`. */
  initialSize?: number
  /** Alignment in bytes, a power of two. Default 64. */
  alignment?: number
  /** Replays only these kinds; null stands for none. Default: all. */
  kinds?: Array<MemoryKind | null>
  /** Replays only these pools; null stands for no pool. Default: all. */
  pools?: Array<string | null>
  /** Replays only these tags; null stands for no tag. Default: all. */
  tags?: Array<string | null>
  /** Searches for the smallest capacity too. */
  smallestCapacity?: boolean
}

/** Result of {@link replayEventLog}. */
export interface ReplayResult {
  /** Whether every request was served. */
  fits: boolean
  /** Capacity of the pool; null if it grew without a limit. */
  capacity: number | null
  /**
   * The smallest capacity that serves every request, found by bisection to 4 KiB or one block: one step less fails.
   * null if no capacity serves every request, or if none was searched for.
   */
  smallestCapacity: number | null
  /** Number of replayed allocations and frees. */
  operations: number
  /** Number of served requests. */
  allocations: number
  frees: number
  /** Number of refused requests. */
  failures: number
  /** Bytes of the refused requests. */
  failedBytes: number
  /** The first refusal. `line` is the line of the text (the header is 1), or the number of the event (from 1). */
  firstFailure: {
    line: number
    size: number
    live: number
    reserved: number
    free: number
    largestFree: number
  } | null
  /** Peak of the live bytes, as requested. */
  peakLive: number
  /** Peak of the live bytes, as padded. */
  peakAllocated: number
  /** Peak of the bytes of the chunks. */
  peakReserved: number
  /** 1 - largest free region / free bytes, at the peak of the allocated bytes. */
  fragmentationAtPeak: number
  /** One past the last byte that was used; null if there was more than one chunk. */
  highestAddress: number | null
  /** Number of chunks that the pool requested from the device. */
  chunksMade: number
  liveAtEnd: number
  reservedAtEnd: number
  largestFreeAtEnd: number
  /**
   * Counts of skipped entries: `filtered` by the options, `refused` when the log was recorded, `unmatchedFrees` without
   * an allocation in the log, `lostFrees`, implied where the log allocates a live place a second time, and `unknown`,
   * by action, which were not understood.
   */
  skipped: {
    filtered: number
    refused: number
    unmatchedFrees: number
    lostFrees: number
    unknown: Record<string, number>
  }
}

/**
 * Replays a recorded log against a pool of another size, to tell whether that pool would have been enough. Runs the
 * real suballocators and the growth of pools, without memory and without a device.
 *
 * Blocks the event loop: a million entries take about a second, most of it to read the text.
 *
 * @param log The text of a .csv of `writeReport` or of RMM (`Thread,Time,Action,Pointer,Size,Stream`), or events.
 * @throws ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE: the text is not a log, not one entry was understood, the pool is
 * impossible, `kinds`, `pools` and `tags` leave nothing to replay, or no capacity is enough; ERR_OUT_OF_MEMORY.
 */
export function replayEventLog(log: string | Iterable<ReplayEvent>, options?: ReplayOptions): ReplayResult
