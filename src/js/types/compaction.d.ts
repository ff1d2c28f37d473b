/** Compaction of pools. */

import type { MemoryBlock } from './blocks.js'

/** Bounds of one call of `MemoryPool.defragment`. Without bounds it runs until there is nothing left to gain. */
export interface DefragmentOptions {
  /** Most bytes to move. */
  maxBytes?: number
  /** Most blocks to move. */
  maxMoves?: number
  /**
   * Time in milliseconds; the move in progress may exceed it. The next call with a time resumes where this one
   * stopped, so that many short calls finish the work. Without a time a second thread copies, where there is a
   * processor for it.
   */
  maxMs?: number
}

/** One moved block. Chunks are numbered from 0 in order of growth; offsets are bytes from the start of a chunk. */
export interface BlockMove {
  /** The block's {@link MemoryBlock.id}. */
  id: number
  from: { chunk: number; offset: number }
  to: { chunk: number; offset: number }
  /** Requested bytes. */
  size: number
}

/** Result of `MemoryPool.defragment`. */
export interface DefragmentResult {
  moves: BlockMove[]
  bytesMoved: number
  /** Bytes of empty chunks that were released to the device afterwards. */
  bytesFreed: number
  fragmentationBefore: number
  fragmentationAfter: number
  durationMs: number
}
