/** Limits, reservations and warnings. */

import type { MemoryManager } from './manager.js'

/** Limit of one scope. */
export interface Limit {
  /**
   * Hard limit in bytes. An allocation that would exceed it throws `ERR_MEMORY_LIMIT`. null or absent: no limit.
   */
  max?: number | null
  /**
   * Soft limits, as shares of `max` (above 0, at most 1). 'warning' fires once per upward crossing of a share.
   * Default [0.8, 0.95].
   */
  warnAt?: number[]
}

/**
 * Limits by scope. They count the bytes that memory occupies, with page rounding, the chunks of pools, and
 * reservations. They do not count the unused rest of slabs (`slabs` of {@link MemoryManager.getNPUMemoryStats} does).
 */
export interface MemoryLimits {
  npu?: Limit
  system?: Limit
  /** Limit of npu + system. */
  total?: Limit
  /** Limits by tag, over both kinds of memory. The tag of a pool counts its chunks. */
  tags?: Record<string, Limit>
}

/**
 * Memory set aside by {@link MemoryManager.reserve}. The manager holds it until `release` or `dispose`, whether the
 * program keeps this object or not.
 */
export interface Reservation {
  readonly size: number
  /** True after `release`, and after the manager's `dispose`. */
  readonly released: boolean
  /** Ends the reservation. Idempotent. */
  release(): void
  [Symbol.dispose](): void
}

/**
 * A resource is nearly used up. The check runs when memory is allocated, and the event is emitted from
 * `process.nextTick`. Each share fires once per upward crossing, and again only after usage fell 5 per cent below it.
 *
 * - `npu`, `system`, `total`, `tag:...`: a limit, at its `warnAt`
 * - `pool:...`: allocated bytes of the pool's `maxSize`, at 80 and 95 per cent
 * - `domain:...`: the addresses of an IOMMU domain, at 80 and 95 per cent
 * - `fds`, `maps`: file descriptors and mappings of this process, at 70 and 90 per cent; counted now and then
 */
export interface MemoryWarning {
  scope: 'npu' | 'system' | 'total' | 'fds' | 'maps' | `tag:${string}` | `pool:${string}` | `domain:${number}`
  /** Usage in bytes; a count for `fds` and `maps`. */
  used: number
  /** Limit in bytes; a count for `fds` and `maps`. */
  max: number
  /** used / max */
  ratio: number
  /** The suggested fix, with the figures. */
  message: string
}
