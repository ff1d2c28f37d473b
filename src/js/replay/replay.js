'use strict'

// Replays a recorded log against pools of other sizes, to find out whether they would have been large enough.
//
// The log is reduced to two arrays of numbers, sizes and blocks. The native part runs the real suballocators over them,
// without memory.

const native = require('../core/binding.js')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { check, invalid, outOfRange, schemas, shown } = require('../core/options.js')
const { readLog } = require('./event-log.js')

/** A capacity that no log reaches. */
const UNLIMITED = 2 ** 50

const ALIGNMENT = 64

/** The most fixed blocks: each takes 12 bytes of table, used or not. */
const MAX_BLOCKS = 2 ** 26

/** Entry types by their effect. RMM writes "allocate failure" for this package's "fail". */
const ALLOCATES = 'allocate'
const FREES = new Set(['free', 'collect'])
const FAILS = new Set(['fail', 'allocate failure'])

function replayEventLog(log, options) {
  const {
    kinds,
    pools,
    tags,
    smallestCapacity: searched = false,
    ...sizes
  } = check('replayEventLog', options, schemas.replay)
  const steps = stepsOf(readLog(log), { kinds, pools, tags })
  const pool = poolOf(sizes, steps.slots)
  const smallest =
    searched || pool.capacity === null ? native.replaySmallest(steps.sizes, steps.blocks, pool.roomy) : null
  if (pool.capacity === null && smallest === null) throw neverFits(steps, sizes)
  const capacity = pool.capacity ?? smallest
  const { firstFailure, ...outcome } = native.replayLog(steps.sizes, steps.blocks, pool.of(capacity))
  return {
    fits: outcome.failures === 0,
    capacity: capacity === UNLIMITED ? null : capacity,
    smallestCapacity: smallest,
    operations: steps.sizes.length,
    ...outcome,
    firstFailure: firstFailure && failureAt(firstFailure, steps.lines),
    skipped: steps.skipped,
  }
}

const failureAt = ({ step, ...figures }, lines) => ({ line: lines[step], ...figures })

/** Lays out the pool: with all of its capacity at once, or growing by chunks. */
function poolOf({ capacity, maxSize, suballocator, blockSize, chunkSize, initialSize, alignment = ALIGNMENT }, slots) {
  if (capacity !== undefined && maxSize !== undefined && capacity !== maxSize) {
    throw invalid('replayEventLog: capacity and maxSize mean the same and differ', 'give one of them')
  }
  if (suballocator === 'fixed' && blockSize === undefined)
    throw invalid("replayEventLog: suballocator 'fixed' needs a blockSize")
  if (suballocator === 'tlsf' && blockSize !== undefined) {
    throw invalid("replayEventLog: suballocator 'tlsf' has no blockSize", "leave one of them out, or say 'fixed'")
  }
  const limit = capacity ?? maxSize ?? null
  const layout = { block: blockSize, alignment }
  // The tables of fixed blocks grow with the pool, which needs no more blocks than live at once.
  const block = blockSize === undefined ? 0 : Math.ceil(blockSize / alignment) * alignment
  const all = Math.max(slots, 1) * block
  if (limit !== null && limit > block * MAX_BLOCKS && block > 0) {
    throw outOfRange(
      `replayEventLog: ${formatBytes(limit)} is more blocks of ${formatBytes(block)} than a replay can track`,
      {
        requested: limit,
        hint: `at most ${slots} live at once: ${formatBytes(all)} gives the same result`,
      },
    )
  }
  if (chunkSize === undefined && initialSize === undefined) {
    const at = (size) => ({ ...layout, initial: size, max: size, chunk: size })
    return { capacity: limit, roomy: at(all || UNLIMITED), of: at }
  }
  const [initial, chunk] = [initialSize ?? 0, chunkSize ?? initialSize]
  const roomy = { ...layout, initial, chunk, max: all === 0 ? UNLIMITED : all + initial + chunk }
  // Without a limit the answer is the size to which the pool grows.
  return { capacity: limit ?? UNLIMITED, roomy, of: (max) => (max === UNLIMITED ? roomy : { ...roomy, max }) }
}

/**
 * Reduces entries to numbers: step i allocates `sizes[i]` bytes for block `blocks[i]`, or frees the block where that is
 * 0.
 */
function stepsOf(entries, filters) {
  const wanted = filter(filters)
  const steps = new Steps()
  const skipped = { filtered: 0, refused: 0, unmatchedFrees: 0, lostFrees: 0 }
  let space
  for (const entry of entries) {
    const { type, kind, pool, id, size, line } = entry
    if (space === undefined || space.kind !== kind || space.pool !== pool) space = steps.space(kind, pool)
    if (type === ALLOCATES) {
      if (!wanted(entry)) {
        skipped.filtered++
        continue
      }
      if (!Number.isSafeInteger(size) || size < 0) {
        throw outOfRange(`replayEventLog: line ${line} allocates ${shown(entry.size)} bytes; it must be a whole number`)
      }
      const before = space.blocks.get(id)
      // Two allocations with one id: the log has lost the free between them.
      if (before !== undefined) {
        skipped.lostFrees++
        steps.free(before, line)
      }
      // An allocation of no bytes takes no block. Its id is kept, so that its free is matched.
      space.blocks.set(id, size === 0 ? NO_BLOCK : steps.allocate(size, line))
    } else if (FREES.has(type)) {
      const block = space.blocks.get(id)
      if (block !== undefined) {
        space.blocks.delete(id)
        steps.free(block, line)
      } else if (type === 'free' && wanted(entry)) {
        skipped.unmatchedFrees++
      }
    } else if (FAILS.has(type) && wanted(entry)) {
      skipped.refused++
    }
  }
  if (skipped.filtered > 0 && steps.count === 0) {
    throw outOfRange(
      `replayEventLog: none of the log's ${skipped.filtered} allocations is of these kinds, pools and tags`,
      {
        hint: 'null in `pools` and `tags` stands for allocations without a pool or tag',
      },
    )
  }
  return { ...steps.done(), skipped }
}

const NO_BLOCK = -1

/** The steps of a replay, in growing arrays. */
class Steps {
  count = 0
  slots = 0
  #sizes = new Float64Array(1024)
  #blocks = new Uint32Array(1024)
  #lines = new Float64Array(1024)
  #freeBlocks = []
  #spaces = new Map()

  /** Returns the live blocks of one kind and pool, by id: ids are unique within those. */
  space(kind, pool) {
    const name = `${kind}\n${pool}`
    if (!this.#spaces.has(name)) this.#spaces.set(name, { kind, pool, blocks: new Map() })
    return this.#spaces.get(name)
  }

  /** Adds an allocation, and returns its block's number. */
  allocate(size, line) {
    const block = this.#freeBlocks.pop() ?? this.slots++
    this.#add(size, block, line)
    return block
  }

  free(block, line) {
    if (block === NO_BLOCK) return
    this.#freeBlocks.push(block)
    this.#add(0, block, line)
  }

  done() {
    const upTo = (array) => array.subarray(0, this.count)
    return { sizes: upTo(this.#sizes), blocks: upTo(this.#blocks), lines: this.#lines, slots: this.slots }
  }

  #add(size, block, line) {
    if (this.count === this.#sizes.length) {
      this.#sizes = doubled(this.#sizes)
      this.#blocks = doubled(this.#blocks)
      this.#lines = doubled(this.#lines)
    }
    this.#sizes[this.count] = size
    this.#blocks[this.count] = block
    this.#lines[this.count++] = line
  }
}

function doubled(array) {
  const larger = new array.constructor(array.length * 2)
  larger.set(array)
  return larger
}

function filter(lists) {
  const tests = Object.entries({ kind: lists.kinds, pool: lists.pools, tag: lists.tags }).filter(
    ([, list]) => list !== undefined,
  )
  if (tests.length === 0) return () => true
  return (entry) => tests.every(([field, list]) => list.includes(entry[field]))
}

function neverFits({ sizes }, { blockSize }) {
  const largest = sizes.reduce((most, size) => Math.max(most, size), 0)
  const blocks = blockSize === undefined ? '' : ` in blocks of ${formatBytes(blockSize)}`
  return memoryError('ERR_OUT_OF_RANGE', `replayEventLog: no capacity is enough for ${formatBytes(largest)}${blocks}`, {
    requested: largest,
    hint: blockSize === undefined ? 'check this size in the log' : 'give larger blocks, or leave blockSize out',
  })
}

module.exports = { replayEventLog }
