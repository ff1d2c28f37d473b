/** Messages of the channels of `node:diagnostics_channel`. */

import type { BufferInfo, MemoryKind } from './allocations.js'
import type { MemoryError } from './errors.js'
import type { MemoryWarning } from './limits.js'
import type { MemoryManager } from './manager.js'

/**
 * What `node:diagnostics_channel` publishes, under `rkllm-memory:allocate`, `:free`, `:fail` and `:warning`; docs/metrics.md says when.
 * `pool`, `movable` and `id` together name an allocation, from its allocation to its free.
 */
export interface AllocationMessage {
  manager: MemoryManager
  kind: MemoryKind
  /** Bytes asked for. */
  size: number
  tag: string | null
  pool: string | null
  /** `MemoryBlock.id` of a block, else {@link BufferInfo.id}. */
  id: number
  movable: boolean
}

/** The allocation that ended. What is collected, and blocks without a buffer that end with their pool, are not told of. */
export type FreeMessage = AllocationMessage

/** A request that was refused; not one that was wrong in itself (`ERR_INVALID_ARG_TYPE`). */
export interface FailMessage {
  manager: MemoryManager
  /** null for a token that could not be adopted. */
  kind: MemoryKind | null
  size: number | null
  tag: string | null
  pool: string | null
  error: MemoryError
}

export type WarningMessage = MemoryWarning & { manager: MemoryManager }
