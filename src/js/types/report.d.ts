/** Snapshots and their comparison. */

import type { BufferInfo, MemoryKind } from './allocations.js'
import type { DeviceInfo } from './devices.js'
import type { MemoryStats, PoolStats } from './stats.js'

/** Everything that lives, at one moment. */
export interface MemorySnapshot {
  version: 1
  /** ms since 1970. */
  takenAt: number
  device: DeviceInfo
  stats: MemoryStats
  buffers: BufferInfo[]
  pools: Array<
    PoolStats & {
      /** Chunks as they lie: every block and every gap, in order. An `id` of null is free space. */
      chunkMaps: Array<{
        size: number
        blocks: Array<{ offset: number; size: number; id: number | null; tag: string | null; stack?: string | null }>
      }>
    }
  >
}

/** Bytes and numbers of holders, before and after. */
export interface Growth {
  /** Bytes. */
  before: number
  after: number
  /** `after - before`; negative for what shrank. */
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
  /** ms since 1970; null for blocks. */
  allocatedAt: number | null
}

/** What changed between two snapshots. Lists of growth have what grew most first. */
export interface SnapshotDiff {
  elapsedMs: number
  /** Bytes, `b - a`. */
  npuUsed: number
  systemUsed: number
  poolReserved: number
  byTag: Array<Growth & { tag: string | null }>
  /** By the stack that allocated; null: not sampled. */
  bySite: Array<Growth & { stack: string | null }>
  /** null: in no pool. */
  byPool: Array<Growth & { pool: string | null }>
  byKind: Array<Growth & { kind: MemoryKind }>
  /** In `b` and not in `a`, largest first. */
  added: MemoryHolder[]
  /** In `a` and not in `b`, largest first. */
  gone: MemoryHolder[]
}

/**
 * What grew from snapshot `a` to snapshot `b`: by tag, call site, pool and kind. Snapshots may also be those of `.json` reports.
 *
 * A block of a pool is known by its id and size; one that was freed and replaced by another of the same size at the same place
 * counts as the same.
 *
 * @throws {MemoryError} ERR_INVALID_ARG_TYPE for what is no snapshot, ERR_OUT_OF_RANGE for one of another version.
 */
export function diffSnapshots(a: MemorySnapshot, b: MemorySnapshot): SnapshotDiff
