/** Compaction of pools. */

/** Where to stop; by default only when there is nothing left to gain. */
export interface DefragmentOptions {
  maxBytes?: number
  maxMoves?: number
  /**
   * Milliseconds, and a move beyond. The next call with a time goes on where this one stopped, so that many short ones get there. Without a time a
   * second thread copies, where there is a processor for it.
   */
  maxMs?: number
}

/** A block that was moved. Chunks are counted from 0 as the pool grew; offsets are bytes from a chunk's start. */
export interface BlockMove {
  /** `MemoryBlock.id`. */
  id: number
  from: { chunk: number; offset: number }
  to: { chunk: number; offset: number }
  /** Bytes asked for. */
  size: number
}

export interface DefragmentResult {
  moves: BlockMove[]
  bytesMoved: number
  /** Given back to the device, in chunks that were empty afterwards. */
  bytesFreed: number
  fragmentationBefore: number
  fragmentationAfter: number
  durationMs: number
}
