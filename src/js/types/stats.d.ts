/** Statistics of a manager, its pools, the process and the machine. */

import type { MemoryKind } from './allocations.js'
import type { Backend } from './devices.js'
import type { DebugOptions } from './manager.js'

/** Bytes are those really taken: whole pages, and the chunks of named pools. */
export interface CounterStats {
  used: number
  peak: number
  liveAllocations: number
  totalAllocations: number
  /** However they ended: deallocated, disposed, collected. */
  totalFrees: number
  /** Requests that were refused. */
  failedAllocations: number
}

/** One IOMMU domain, as far as this process's managers fill it, slabs and chunks included. */
export interface DomainStats {
  id: number
  total: number
  used: number
  reservedForOthers: number
}

export interface NPUMemoryStats extends CounterStats {
  backend: Backend
  simulated: boolean
  /** What the NPU can address and the machine could give (IOMMU reach, CMA, RAM), whichever binds. */
  total: number
  available: number
  limit: number | null
  /** Kernel objects (and so fds) behind `liveAllocations`, empty ones that are kept included. */
  objects: number
  /** All slabs together: bytes in them, bytes in slices that live, writes after a free ({@link DebugOptions.delayReuse}). */
  slabs: { reserved: number; allocated: number; lateWrites: number }
  /** Freed in JS, not yet given back by the driver. */
  pendingFree: number
  /** What the driver failed to take back: it stays with the kernel until a reboot, and is not tried again. */
  lost: { objects: number; bytes: number }
  /** Empty without an IOMMU. */
  domains: DomainStats[]
  /** NPU buffers mapped in this process by anyone, the RKLLM runtime included. */
  processMapped: number | null
  sramTotal: number
  sramFree: number
  cmaTotal: number | null
  cmaFree: number | null
  /** Per cent per core, where the kernel shows it to this user. */
  load: number[] | null
}

export interface SystemMemoryStats extends CounterStats {
  limit: number | null
  /** RAM of the machine. */
  total: number
  /** What could be taken without swapping. */
  available: number
  swapTotal: number
  swapFree: number
  /** Resident set of this process. */
  rss: number
  /** cgroup v2 (container) figures, of the tightest limit on the way up; null outside one. */
  cgroup: { limit: number | null; current: number } | null
  /** PSI: share of the last 10 s in which some / all tasks waited for memory, per cent; null on kernels without. */
  pressure: { someAvg10: number; fullAvg10: number } | null
}

export interface PoolStats {
  name: string
  kind: MemoryKind
  chunks: number
  /** Bytes: reserved (chunks) >= allocated (regions, padded) >= requested (asked for). */
  reserved: number
  allocated: number
  requested: number
  free: number
  peakAllocated: number
  /** Exact, not a size-class floor. */
  largestFree: number
  liveAllocations: number
  totalAllocations: number
  failedAllocations: number
  /** 1 - largestFree / free, over the whole pool; 0 when nothing is free. */
  fragmentation: number
  /** Slices that were written to after they were freed, with {@link DebugOptions.delayReuse}. */
  lateWrites: number
}

export interface MemoryStats {
  npuUsed: number
  npuTotal: number
  npuPeak: number
  systemUsed: number
  /** RAM of the machine, or the container's limit where that is less. */
  systemTotal: number
  systemPeak: number
  poolReserved: number
  poolAllocated: number
  liveAllocations: number
  simulated: boolean
}

export interface MemoryUsage {
  npu: NPUMemoryStats
  system: SystemMemoryStats
  pools: PoolStats[]
  /** By tag. A tag with nothing live is forgotten when there are more than 1024. */
  tags: Record<string, CounterStats>
  /** What `reserve` set aside and nobody has released. */
  reservations: Array<{ tag: string | null; kind: MemoryKind; size: number }>
  /** NaN where /proc is not mounted. */
  process: {
    rss: number
    heapUsed: number
    external: number
    openFds: number
    maxFds: number
    maps: number
    maxMaps: number
  }
  /** Of all pools, weighted by what is free in each; 0 without any. */
  fragmentation: number
}
