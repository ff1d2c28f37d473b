/** Profiling: samples, histograms, events and leaks. */

import type { BufferInfo, MemoryKind } from './allocations.js'
import type { MemoryBlock } from './blocks.js'
import type { MemoryManager } from './manager.js'

/** Options of {@link MemoryManager.enableMemoryProfiling}. */
export interface ProfilingOptions {
  /**
   * Mean bytes between two samples. Each sample records stack and lifetime (a Poisson process, as in tcmalloc and V8).
   * 1 samples every allocation. A larger interval grows when there are more than 200 samples a second for longer than
   * ten thousand samples; the estimates stay unbiased. Default 524288.
   */
  sampleInterval?: number
  /**
   * Number of events kept, for each pool and in total, at 24 bytes each. Older events are dropped and counted. At most
   * 2^24. Default 65536.
   */
  eventCapacity?: number
  /** Frames of a stack, 1 to 200. Default 16. */
  stackDepth?: number
  /** Age in ms at which 'leak' reports a live allocation, once. Default: never. */
  leakAfterMs?: number
}

/** Distribution of a figure. Quantiles are exact to one per cent. All fields are 0 if nothing was counted. */
export interface Histogram {
  count: number
  min: number
  p50: number
  p90: number
  p99: number
  p999: number
  max: number
  mean: number
  /** Counts by powers of two, without empty buckets; not cumulative. */
  buckets: Array<[upTo: number, count: number]>
}

/** One call site and tag. The figures are unbiased estimates from samples. */
export interface CallSite {
  /** `at ...` lines, innermost first, without frames of this package; '' if no JavaScript was on the stack. */
  stack: string
  tag: string | null
  liveBytes: number
  liveCount: number
  totalBytes: number
  totalCount: number
}

/** One entry of the event log. */
export interface MemoryEvent {
  /**
   * `collect`: freed by the garbage collector, or at the end of its thread. `grow`, `trim`: a pool gained or released a
   * chunk.
   */
  type: 'allocate' | 'free' | 'fail' | 'grow' | 'trim' | 'move' | 'collect'
  /**
   * Time since profiling began, exact to about 4 ms under heavy load. Events are in order within each pool, and among
   * those outside pools.
   */
  timeUs: number
  /**
   * {@link BufferInfo.id} or {@link MemoryBlock.id}, unique in this process; the number of the chunk for `grow` and
   * `trim`; 0 for `fail`.
   */
  id: number
  kind: MemoryKind
  /** Requested bytes, or the bytes of the chunk. */
  size: number
  /** Tag of the allocation, else of its pool. */
  tag: string | null
  pool: string | null
  /** `worker_threads.threadId` of the manager's thread. */
  thread: number
}

/** Result of {@link MemoryManager.getMemoryProfile}. Counts and bytes are exact; bytes are requested bytes. */
export interface MemoryProfile {
  enabled: boolean
  /** Start of profiling, in ms since 1970; 0 before the first start. */
  startedAt: number
  durationMs: number
  allocations: number
  frees: number
  bytesAllocated: number
  bytesFreed: number
  /** Allocations per second. */
  allocationRate: number
  /** The interval of {@link ProfilingOptions.sampleInterval}, as requested. */
  sampleInterval: number
  /** Requested bytes of every allocation. */
  sizes: Histogram
  /** Lifetimes, estimated from samples that were freed. */
  lifetimesMs: Histogram
  /** Native time of allocations that succeeded: of all outside pools, and of one in 256 within. */
  latencyNs: Histogram
  /** Call sites, those with the most live bytes first. */
  callSites: CallSite[]
  /** Events, oldest first. */
  events: MemoryEvent[]
  droppedEvents: number
  /**
   * Usage over time, every 250 ms at first and less often later. `timeMs` counts from the start. Points are recorded
   * only while the event loop turns.
   */
  timeline: Array<{ timeMs: number; npuUsed: number; systemUsed: number; poolReserved: number }>
  /** Allocations that 'leak' reported and that are still live, up to 10,000. */
  leaks: BufferInfo[]
  /** The number of all of them. */
  leakCount: number
}
