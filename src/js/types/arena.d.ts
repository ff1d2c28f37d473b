/** Static planning of an arena: offsets for buffers whose lifetimes are known. */

/** A buffer and its lifetime. */
export interface ArenaBuffer {
  /** Unique: a string, or a safe integer. */
  id: string | number
  /** The first moment at which the buffer is alive: a safe integer, such as the number of a step. */
  lower: number
  /** The first moment at which it is not alive any more; greater than `lower`. */
  upper: number
  /** Bytes, at least 1. */
  size: number
  /** The offset is a multiple of it: a power of two. Default 1. */
  alignment?: number
}

/** Options of {@link planArena}. */
export interface ArenaOptions {
  /** A size in bytes that suffices: the search ends with the first plan of at most that. Default: the least. */
  capacity?: number
  /** How long to look for a smaller arena, in ms. The event loop stands meanwhile. Default 100. */
  maxMs?: number
}

/** A valid plan: buffers that are alive together do not overlap. */
export interface ArenaPlan {
  /** Bytes of the arena. */
  size: number
  /** No arena is smaller than so many bytes. */
  lowerBound: number
  /** Whether no smaller arena exists: `size` equals `lowerBound`. */
  isLeast: boolean
  /** Whether `size` is at most `capacity`; null without one. False says that none was found in `maxMs`. */
  fits: boolean | null
  /** The buffers in the order of the request, with their offsets in bytes. */
  placements: Array<Required<ArenaBuffer> & { offset: number }>
}

/**
 * Places buffers with known lifetimes into one arena, as small as it finds: the scratch memory of models that run one
 * after another, for example.
 *
 * It tries orders of first fit, and then a search with restarts for plans of at most 1,000 buffers, until `maxMs` ends
 * or the lower bound is reached. A plan is valid whenever it ends. Takes at most 20,000 buffers.
 *
 * Errors: ERR_INVALID_ARG_TYPE, ERR_OUT_OF_RANGE.
 *
 * @example
 * const { size, placements } = planArena([
 *   { id: 'patches', lower: 0, upper: 2, size: 4096 },
 *   { id: 'attention', lower: 1, upper: 3, size: 1024 },
 *   { id: 'logits', lower: 2, upper: 4, size: 4096 },
 * ])
 * size // => 5120
 * placements[2].offset // => 0
 */
export function planArena(buffers: readonly ArenaBuffer[], options?: ArenaOptions): ArenaPlan
