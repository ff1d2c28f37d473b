/** Limits, reservations and warnings. */

/** How much of something there may be. */
export interface Limit {
  /** Hard, in bytes: what would pass it throws `ERR_MEMORY_LIMIT`. null or left out: none. */
  max?: number | null
  /** Soft: shares of `max` (above 0, at most 1) at which 'warning' fires, once per crossing upwards. Default [0.8, 0.95]. */
  warnAt?: number[]
}

/**
 * Bytes that are really taken are counted: page rounding, the chunks of pools, and reservations included. The unused rest of slabs
 * is not (`getNPUMemoryStats().slabs` tells it).
 */
export interface MemoryLimits {
  npu?: Limit
  system?: Limit
  /** npu + system. */
  total?: Limit
  /** What carries the tag, of either kind; a pool's tag counts its chunks. */
  tags?: Record<string, Limit>
}

/** Made by `manager.reserve`. Dropped without `release`, it is released when collected, with a process warning. */
export interface Reservation {
  readonly size: number
  readonly released: boolean
  /** Idempotent. */
  release(): void
  [Symbol.dispose](): void
}

/**
 * Something comes near its end. Looked for when memory is taken, emitted from `process.nextTick`; each share once per crossing
 * upwards, and again only after it was left by 5 per cent.
 *
 * `npu`, `system`, `total`, `tag:...`: a limit, at its `warnAt`. `pool:...`: what is allocated of its `maxSize`, at 80 and 95 per cent.
 * `domain:...`: the addresses of an IOMMU domain, at 80 and 95 per cent. `fds`, `maps`: descriptors and mappings of this process, at 70
 * and 90 per cent; they are counted now and then. `used` and `max` are bytes, but for the last two.
 */
export interface MemoryWarning {
  scope: 'npu' | 'system' | 'total' | 'fds' | 'maps' | `tag:${string}` | `pool:${string}` | `domain:${number}`
  used: number
  max: number
  /** used / max */
  ratio: number
  /** What to do about it, with the figures. */
  message: string
}
