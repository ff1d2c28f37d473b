/** Snapshots and their comparison. */

import type { BufferInfo, MemoryKind } from './allocations.js'
import type { DeviceInfo } from './devices.js'
import type { MemoryManager } from './manager.js'
import type { MemoryStats, PoolStats } from './stats.js'

/** Everything live at one moment. Made by {@link MemoryManager.takeSnapshot}. */
export interface MemorySnapshot {
  version: 1
  /** Time of the snapshot, in ms since 1970. */
  takenAt: number
  device: DeviceInfo
  stats: MemoryStats
  buffers: BufferInfo[]
  pools: Array<
    PoolStats & {
      /** The pool's tag, which its slices without one of their own have too. Absent in older reports. */
      tag?: string | null
      /** Maps of the chunks: every block and every gap, in order of offset. A gap has the `id` null. */
      chunkMaps: Array<{
        size: number
        blocks: Array<{
          offset: number
          size: number
          id: number | null
          tag: string | null
          stack?: string | null
          /** Whether the block is pinned; absent if it is not. */
          pinned?: true
          /** Whether JavaScript has dropped the pinned block; absent if it has not. */
          dropped?: true
        }>
      }>
    }
  >
}

/** Options of {@link MemoryManager.writeReport}. */
export interface ReportOptions {
  /** An earlier snapshot. The report, an .html page, then shows what grew since. */
  before?: MemorySnapshot
}

/** Bytes and counts of holders, before and after. */
export interface Growth {
  /** Bytes before. */
  before: number
  /** Bytes after. */
  after: number
  /** `after - before` in bytes; negative if it shrank. */
  growth: number
  countBefore: number
  countAfter: number
}

/** A buffer, or a block of a pool that has no ArrayBuffer. */
export interface MemoryHolder {
  id: number
  kind: MemoryKind
  size: number
  tag: string | null
  pool: string | null
  stack: string | null
  /** Time of the allocation, in ms since 1970; null for blocks. */
  allocatedAt: number | null
}

/** Result of {@link diffSnapshots}. Lists of growth have the largest growth first. */
export interface SnapshotDiff {
  elapsedMs: number
  /** Growth of used NPU memory in bytes, `b - a`. */
  npuUsed: number
  /** Growth of used system memory in bytes, `b - a`. */
  systemUsed: number
  /** Growth of the chunks of pools in bytes, `b - a`. */
  poolReserved: number
  byTag: Array<Growth & { tag: string | null }>
  /** Growth by stack of the allocation; null for those that were not sampled. */
  bySite: Array<Growth & { stack: string | null }>
  /** Growth by pool; null for memory outside pools. */
  byPool: Array<Growth & { pool: string | null }>
  byKind: Array<Growth & { kind: MemoryKind }>
  /** Holders in `b` that are not in `a`, largest first. */
  added: MemoryHolder[]
  /** Holders in `a` that are not in `b`, largest first. */
  gone: MemoryHolder[]
}

/**
 * Compares snapshot `a` with snapshot `b`: growth by tag, call site, pool and kind. Also takes the snapshots of
 * `.json` reports.
 *
 * Snapshots of one process are compared allocation by allocation, by id.
 *
 * @throws {MemoryError} ERR_INVALID_ARG_TYPE: not a snapshot; ERR_OUT_OF_RANGE: a snapshot of another version.
 */
export function diffSnapshots(a: MemorySnapshot, b: MemorySnapshot): SnapshotDiff
