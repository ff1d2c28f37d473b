/** Replay of recorded event logs. */

import type { MemoryKind } from './allocations.js'

/** What a replay needs of an event; `kind`, `pool` and `tag` may be missing. */
export interface ReplayEvent {
  /** 'allocate'; 'free' or 'collect'; 'fail' is counted, everything else is passed over. */
  type: string
  /** Unique among what lives of the same kind and pool. */
  id: number | string
  /** Bytes asked for. */
  size: number
  kind?: MemoryKind | null
  pool?: string | null
  tag?: string | null
}

/** Sizes are bytes, rounded up to the alignment or to blocks as those of a pool are. */
export interface ReplayOptions {
  /**
   * What the pool may have. All of it at once, unless `chunkSize` or `initialSize` says that it grows. Default: the smallest capacity that
   * serves everything, or as much as it grows to.
   */
  capacity?: number
  /** Another name of `capacity`. */
  maxSize?: number
  /** Default 'tlsf', or 'fixed' with a `blockSize`. */
  suballocator?: 'tlsf' | 'fixed'
  /** Blocks of one size. */
  blockSize?: number
  /** What it grows by. Default: `initialSize`. */
  chunkSize?: number
  /** Default 0 with a `chunkSize`. */
  initialSize?: number
  /** A power of two. Default 64. */
  alignment?: number
  /** Only what is of these kinds, pools and tags; null stands for no pool and no tag. Default: everything. */
  kinds?: Array<MemoryKind | null>
  pools?: Array<string | null>
  tags?: Array<string | null>
  /** Look for the smallest capacity as well. */
  smallestCapacity?: boolean
}

export interface ReplayResult {
  /** Every request was served. */
  fits: boolean
  /** What the pool had; null where it grew without a limit. */
  capacity: number | null
  /**
   * Found by bisection, to 4 KiB or a block: it serves everything, and one step less does not. null where none does, or none was looked
   * for.
   */
  smallestCapacity: number | null
  /** Allocations and frees that were replayed. */
  operations: number
  /** Requests that were served. */
  allocations: number
  frees: number
  /** Requests that were refused, and their bytes. */
  failures: number
  failedBytes: number
  /** `line` is the line of the text (the header is 1), or the number of the event (the first is 1). */
  firstFailure: { line: number; size: number; live: number; reserved: number; free: number; largestFree: number } | null
  /** The most that was live: as asked for, as padded; and the most that its chunks took. */
  peakLive: number
  peakAllocated: number
  peakReserved: number
  /** 1 - largest free / free, when most was allocated. */
  fragmentationAtPeak: number
  /** One past the last byte that was ever used; null where there was more than one chunk. */
  highestAddress: number | null
  /** How often the device was asked for memory. */
  chunksMade: number
  liveAtEnd: number
  reservedAtEnd: number
  largestFreeAtEnd: number
  /**
   * What of the log was not replayed: allocations that the options leave out, requests that were refused when it was recorded, frees
   * of what the log never allocated; and places that were given out twice, which are freed in between.
   */
  skipped: { filtered: number; refused: number; unmatchedFrees: number; lostFrees: number }
}

/**
 * Would that pool have been enough? Runs a recorded log through the real suballocators and the growth of pools, without memory and without
 * a device. Blocks the event loop: a million entries take about a second, most of it reading text.
 *
 * @param log The text of a .csv of `writeReport` or of RMM (`Thread,Time,Action,Pointer,Size,Stream`), or events.
 * @throws ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE not a log, a pool that cannot be, nothing left by `kinds`, `pools` and `tags`, or no
 * capacity that is enough; ERR_OUT_OF_MEMORY.
 */
export function replayEventLog(log: string | Iterable<ReplayEvent>, options?: ReplayOptions): ReplayResult
