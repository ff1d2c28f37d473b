/** Profiling: samples, histograms, events and leaks. */

import type { BufferInfo, MemoryKind } from './allocations.js'

export interface ProfilingOptions {
  /**
   * Mean bytes between two samples, whose stack and lifetime are recorded (a Poisson process, as tcmalloc and V8 have it). 1 samples
   * every allocation. Otherwise, where there would be more than 200 samples a second for longer than ten thousand of them, it
   * grows so that there are not; the estimates that come from samples stay without bias. Default 524288.
   */
  sampleInterval?: number
  /** Events kept, for each pool and in all; older ones fall out and are counted. 24 bytes each. At most 2^24. Default 65536. */
  eventCapacity?: number
  /** Frames of a stack, 1 to 200. Default 16. */
  stackDepth?: number
  /** What is older than this and was not freed is reported once by 'leak'. Default: never. */
  leakAfterMs?: number
}

/** Quantiles are exact to one per cent. All 0 where nothing was counted. */
export interface Histogram {
  count: number
  min: number
  p50: number
  p90: number
  p99: number
  p999: number
  max: number
  mean: number
  /** By powers of two, without the empty ones; counts are not cumulative. */
  buckets: Array<[upTo: number, count: number]>
}

/** A place in the program, for one tag. Estimates from samples, without bias. */
export interface CallSite {
  /** `at ...` lines, the innermost frame first, without this package's own; '' where no JavaScript was there. */
  stack: string
  tag: string | null
  liveBytes: number
  liveCount: number
  totalBytes: number
  totalCount: number
}

export interface MemoryEvent {
  /** `collect`: freed by the garbage collector or at the end of its thread. `grow`, `trim`: a pool took or gave back a chunk. */
  type: 'allocate' | 'free' | 'fail' | 'grow' | 'trim' | 'move' | 'collect'
  /**
   * Since profiling began; to about 4 ms where there are many at once. The order is that in which things happened in each pool, and
   * outside pools.
   */
  timeUs: number
  /**
   * {@link BufferInfo.id}, or `MemoryBlock.id` for what `pool.allocate` took; a chunk's number for `grow` and `trim`; 0 for `fail`.
   */
  id: number
  kind: MemoryKind
  /** Bytes asked for; those of the chunk. */
  size: number
  /** Its own tag, else its pool's. */
  tag: string | null
  pool: string | null
  /** `worker_threads.threadId` of the manager's thread. */
  thread: number
}

export interface MemoryProfile {
  enabled: boolean
  /** ms since 1970; 0 before the first time. */
  startedAt: number
  durationMs: number
  /** Exact, as are the three that follow. Bytes are those asked for. */
  allocations: number
  frees: number
  bytesAllocated: number
  bytesFreed: number
  /** Per second. */
  allocationRate: number
  /** As it was asked for. */
  sampleInterval: number
  /** Bytes asked for, of every allocation. */
  sizes: Histogram
  /** Estimated from samples that were freed. */
  lifetimesMs: Histogram
  /** Of allocations that succeeded, in the native part: all outside pools, one in 256 within. */
  latencyNs: Histogram
  /** What holds most comes first. */
  callSites: CallSite[]
  /** Oldest first. */
  events: MemoryEvent[]
  droppedEvents: number
  /** Every 250 ms at first, later more rarely; `timeMs` since it began. Only while the event loop turns. */
  timeline: Array<{ timeMs: number; npuUsed: number; systemUsed: number; poolReserved: number }>
  /** What 'leak' told of, the first thousand. */
  leaks: BufferInfo[]
}
