/** Statistics of a manager, its pools, the process and the machine. Sizes are bytes. */

import type { MemoryKind } from './allocations.js'
import type { Backend } from './devices.js'
import type { MemoryBlock, unpinDropped } from './blocks.js'
import type { DebugOptions, MemoryManager } from './manager.js'
import type { MemoryPoolOptions } from './pools.js'
import type { ModelStats } from './residency.js'

/** Usage counters. Bytes are those that memory occupies: whole pages, and the chunks of named pools. */
export interface CounterStats {
  used: number
  /**
   * Bytes that count against a limit: those in use, those of reservations, and those of requests in flight. A limit is
   * as near as `taken / limit`.
   */
  taken: number
  peak: number
  liveAllocations: number
  totalAllocations: number
  /** Number of allocations that ended: deallocated, disposed or collected. */
  totalFrees: number
  /**
   * Number of requests that failed for good: one for each, however often the manager reclaimed memory and tried again.
   * An invalid argument is no refusal.
   */
  failedAllocations: number
}

/** Usage of one IOMMU domain by this process's managers, with slabs and chunks. */
export interface DomainStats {
  id: number
  total: number
  used: number
  reservedForOthers: number
}

/** Result of {@link MemoryManager.getNPUMemoryStats}. */
export interface NPUMemoryStats extends CounterStats {
  backend: Backend
  simulated: boolean
  /**
   * The tightest of the bounds on NPU memory: IOMMU reach, CMA and RAM. CMA is no bound on `rknpu` without an IOMMU:
   * buffers of up to 4 MiB come from ordinary pages when it is full ({@link NPUMemoryStats.cmaFree} for larger ones).
   */
  total: number
  /**
   * Bytes that can still be allocated, under every limit. Where the kernel does not show the area that bounds them (CMA
   * without an IOMMU), available RAM is the bound.
   */
  available: number
  limit: number | null
  /** Number of kernel objects (and so fds) behind `liveAllocations`, with the empty ones that the manager keeps. */
  objects: number
  /**
   * All slabs: their bytes, the bytes of live slices and of freed ones that wait before their bytes are used again
   * (`reuseAfterMs`), and writes after a free ({@link DebugOptions.delayReuse}).
   */
  slabs: { reserved: number; allocated: number; waiting: number; lateWrites: number; lost: LostSlices }
  /** Bytes that JavaScript freed and the driver has not yet released. */
  pendingFree: number
  /**
   * Freed memory that is not back. Objects that the driver failed to release stay until a reboot. Objects that the
   * kernel could not unmap, because it had no mapping left (`vm.max_map_count`) or no addresses, are tried again at
   * later frees and by `optimizeMemory`; they count until that succeeds. `forGood` is the number of the former. It
   * never falls.
   */
  lost: { objects: number; bytes: number; forGood: number }
  /** Usage by IOMMU domain; empty without an IOMMU. */
  domains: DomainStats[]
  /** Bytes of all NPU buffers mapped in this process, with those of the RKLLM runtime. */
  processMapped: number | null
  sramTotal: number
  sramFree: number
  cmaTotal: number | null
  /** Bytes of the CMA area that can be allocated, those included that the page cache has borrowed. */
  cmaFree: number | null
  /** Load of each core in per cent; null unless the kernel shows it to this user. */
  load: number[] | null
}

/** Result of {@link MemoryManager.getSystemMemoryStats}. */
export interface SystemMemoryStats extends CounterStats {
  limit: number | null
  /** Freed memory that the kernel could not unmap yet, in this process. It is tried again at later frees. */
  lost: { mappings: number; bytes: number }
  /** RAM of the machine. */
  total: number
  /**
   * RAM that can be allocated without swapping, under the limits of the memory cgroup and of `setMemoryLimits`. Free
   * pages only where `/proc/meminfo` cannot be read.
   */
  available: number
  swapTotal: number
  swapFree: number
  /** Resident set of this process; null where the kernel does not tell. */
  rss: number | null
  /**
   * The memory cgroup (v2 or v1) on the way up the hierarchy that leaves the fewest bytes, page cache excluded: its
   * limit (the smaller of `memory.max` and `memory.high`) and its usage; without any limit, this process's own. Null
   * outside a memory controller.
   */
  cgroup: { limit: number | null; current: number } | null
  /**
   * PSI: per cent of the last 10 s in which some or all tasks waited for memory; null on kernels without PSI.
   */
  pressure: { someAvg10: number; fullAvg10: number } | null
}

/**
 * Slices that are never used again while their pool or slab lives. A thread ended while it held them, after a script
 * had moved their ArrayBuffers (`transfer()`, a BYOB stream), so that these may live on in another thread.
 */
export interface LostSlices {
  slices: number
  bytes: number
}

/**
 * Statistics of one pool: reserved (chunks) >= allocated (padded regions) >= requested bytes, and reserved =
 * allocated + free.
 */
export interface PoolStats {
  name: string
  kind: MemoryKind
  /** The most bytes that its chunks may have. */
  maxSize: number
  /** Number of chunks. */
  chunks: number
  reserved: number
  allocated: number
  requested: number
  free: number
  /**
   * Bytes of `free` that are those of freed slices and wait before they are used again, unless the pool needs them
   * ({@link MemoryPoolOptions.reuseAfterMs}, {@link DebugOptions.delayReuse}).
   */
  waiting: number
  peakAllocated: number
  /** Bytes of the largest slice that fits: exact, not the floor of a size class. Slices that wait count as free. */
  largestFree: number
  liveAllocations: number
  totalAllocations: number
  failedAllocations: number
  /** 1 - largestFree / free, over the whole pool; 0 if nothing is free, and for blocks of a fixed size. */
  fragmentation: number
  /** Number of slices that were written to after they were freed, with {@link DebugOptions.delayReuse}. */
  lateWrites: number
  /** Number of chunks that were added in the background ({@link MemoryPoolOptions.growAhead}), and of failures. */
  grownAhead: number
  failedAhead: number
  lost: LostSlices
}

/** Result of {@link MemoryManager.getMemoryStats}. */
export interface MemoryStats {
  npuUsed: number
  npuTotal: number
  npuPeak: number
  systemUsed: number
  /** RAM of the machine, or the container's limit if that is lower. */
  systemTotal: number
  systemPeak: number
  poolReserved: number
  poolAllocated: number
  /** Bytes of freed slices, of pools and slabs, that wait before their bytes are used again. */
  waiting: number
  liveAllocations: number
  /** Number of pinned blocks ({@link MemoryBlock.pin}), and the bytes that they occupy. */
  pinnedBlocks: number
  pinnedBytes: number
  /**
   * Those of them that JavaScript has dropped: no object can unpin them. 'leak' and
   * {@link MemoryManager.takeSnapshot} have their ids. {@link unpinDropped} ends them, and so do `pool.reset()`, a
   * forced `destroyMemoryPool` and `dispose`.
   */
  droppedPinnedBlocks: number
  droppedPinnedBytes: number
  simulated: boolean
}

/** Usage by one tag. */
export interface TagStats extends CounterStats {
  /** The tag's limit. */
  limit: number | null
}

/** Figures of pinned blocks; bytes are those that the blocks occupy. */
export interface PinnedStats {
  blocks: number
  bytes: number
  /** Pinned blocks that JavaScript has dropped. */
  droppedBlocks: number
  droppedBytes: number
  /**
   * Pinned blocks of all managers of this process that ended without `dispose`: their thread ended, or JavaScript
   * dropped them. The memory stays until {@link unpinDropped} or the end of the process.
   */
  orphanedBlocks: number
  orphanedBytes: number
}

/** Result of {@link MemoryManager.getMemoryUsage}. */
export interface MemoryUsage {
  npu: NPUMemoryStats
  system: SystemMemoryStats
  pools: PoolStats[]
  /** Usage by tag. Above 1024 tags, those without live allocations are dropped. */
  tags: Record<string, TagStats>
  pinned: PinnedStats
  /** Models of {@link MemoryManager.createModelResidency}, of all open residencies. */
  models: ModelStats[]
  /** Reservations of `reserve` that have not been released. */
  reservations: Array<{ tag: string | null; kind: MemoryKind; size: number }>
  /** Both kinds together, for the limit `total` of `setMemoryLimits`. */
  total: { taken: number; limit: number | null }
  /** Figures of the process. */
  process: {
    /** Null where the kernel does not tell, as the four figures below. */
    rss: number | null
    heapUsed: number
    external: number
    openFds: number | null
    maxFds: number | null
    maps: number | null
    maxMaps: number | null
    /**
     * Bytes of addresses of this library. A freed address is used again when all others of the `budget` were;
     * `withheld` ones never, because a thread ended while its buffers may have lived on in another.
     */
    addresses: { budget: number; withheld: number }
  }
  /** Mean fragmentation of all pools, weighted by their free bytes; 0 without pools. */
  fragmentation: number
}
