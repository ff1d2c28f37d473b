/** Messages on the channels of `node:diagnostics_channel`. */

import type { BufferInfo, MemoryKind } from './allocations.js'
import type { MemoryBlock } from './blocks.js'
import type { MemoryError } from './errors.js'
import type { MemoryWarning } from './limits.js'
import type { MemoryManager } from './manager.js'
import type { ModelEvent, ModelResidency } from './residency.js'

/**
 * Message of `rkllm-memory:allocate`. The other channels are `rkllm-memory:free`, `:fail`, `:warning` and `:model`;
 * docs/metrics.md says when each publishes.
 *
 * `id` identifies an allocation from its allocation to its free.
 */
export interface AllocationMessage {
  manager: MemoryManager
  kind: MemoryKind
  /** Requested bytes. */
  size: number
  tag: string | null
  pool: string | null
  /** {@link BufferInfo.id}, or {@link MemoryBlock.id}: unique in this process. */
  id: number
  movable: boolean
}

/**
 * Message of `rkllm-memory:free`: the allocation that ended. The channel does not report collected memory, nor blocks
 * without an ArrayBuffer that end with their pool.
 */
export type FreeMessage = AllocationMessage

/**
 * Message of `rkllm-memory:fail`: a refused request. The channel does not report invalid requests
 * (`ERR_INVALID_ARG_TYPE`).
 */
export interface FailMessage {
  manager: MemoryManager
  /** Kind of memory; null for a token that could not be adopted. */
  kind: MemoryKind | null
  size: number | null
  tag: string | null
  pool: string | null
  error: MemoryError
}

/** Message of `rkllm-memory:model`: an event of a residency ({@link ModelResidency}), and its name. */
export type ModelMessage = ModelEvent & {
  manager: MemoryManager
  event: 'load' | 'ready' | 'evict' | 'gone' | 'fail' | 'stuck'
}

/** Message of `rkllm-memory:warning`. */
export type WarningMessage = MemoryWarning & { manager: MemoryManager }
