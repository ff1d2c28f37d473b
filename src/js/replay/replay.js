'use strict'

// A recorded log, replayed against pools of other sizes: would they have been enough?
//
// The log is brought down to two arrays of numbers, who takes how much and who gives it back, and the native part runs the real
// suballocators over them, without memory.

const native = require('../core/binding.js')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { check, invalid, outOfRange, schemas, shown } = require('../core/options.js')
const { readLog } = require('./event-log.js')

/** Enough for everything, and still a whole number of anything. */
const UNLIMITED = 2 ** 50

const ALIGNMENT = 64

/** Each takes 12 bytes of table, whether it is used or not. */
const MAX_BLOCKS = 2 ** 26

/** Which of a log's entries do what. RMM says "allocate failure", we say "fail". */
const TAKES = 'allocate'
const GIVES = new Set(['free', 'collect'])
const REFUSED = new Set(['fail', 'allocate failure'])

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

/** How the pool is laid out: as one that has all of its capacity at once, or as one that grows. */
function poolOf({ capacity, maxSize, suballocator, blockSize, chunkSize, initialSize, alignment = ALIGNMENT }, slots) {
  if (capacity !== undefined && maxSize !== undefined && capacity !== maxSize) {
    throw invalid('replayEventLog: capacity and maxSize are two names of the same', 'give one of them')
  }
  if (suballocator === 'fixed' && blockSize === undefined)
    throw invalid("replayEventLog: suballocator 'fixed' needs a blockSize")
  if (suballocator === 'tlsf' && blockSize !== undefined) {
    throw invalid("replayEventLog: suballocator 'tlsf' has no blockSize", "leave one of them out, or say 'fixed'")
  }
  const limit = capacity ?? maxSize ?? null
  const layout = { block: blockSize, alignment }
  // Tables of fixed blocks are as long as the pool is large: no longer than there are blocks at once.
  const block = blockSize === undefined ? 0 : Math.ceil(blockSize / alignment) * alignment
  const all = Math.max(slots, 1) * block
  if (limit !== null && limit > block * MAX_BLOCKS && block > 0) {
    throw outOfRange(
      `replayEventLog: ${formatBytes(limit)} are more blocks of ${formatBytes(block)} than a replay keeps tables of`,
      {
        requested: limit,
        hint: `no more than ${slots} live at once: ${formatBytes(all)} are as good`,
      },
    )
  }
  if (chunkSize === undefined && initialSize === undefined) {
    const at = (size) => ({ ...layout, initial: size, max: size, chunk: size })
    return { capacity: limit, roomy: at(all || UNLIMITED), of: at }
  }
  const [initial, chunk] = [initialSize ?? 0, chunkSize ?? initialSize]
  const roomy = { ...layout, initial, chunk, max: all === 0 ? UNLIMITED : all + initial + chunk }
  // Without a limit what it grows to is the answer, and no other is looked for.
  return { capacity: limit ?? UNLIMITED, roomy, of: (max) => (max === UNLIMITED ? roomy : { ...roomy, max }) }
}

/** Entries as numbers: `sizes[i]` bytes are taken by block `blocks[i]`, or given back where that is 0. */
function stepsOf(entries, filters) {
  const wanted = filter(filters)
  const steps = new Steps()
  const skipped = { filtered: 0, refused: 0, unmatchedFrees: 0, lostFrees: 0 }
  let space
  for (const entry of entries) {
    const { type, kind, pool, id, size, line } = entry
    if (space === undefined || space.kind !== kind || space.pool !== pool) space = steps.space(kind, pool)
    if (type === TAKES) {
      if (!wanted(entry)) {
        skipped.filtered++
        continue
      }
      if (!Number.isSafeInteger(size) || size < 0) {
        throw outOfRange(`replayEventLog: line ${line} allocates ${shown(entry.size)} bytes; it must be a whole number`)
      }
      const before = space.blocks.get(id)
      // The same place twice: the free between the two is not in the log.
      if (before !== undefined) {
        skipped.lostFrees++
        steps.give(before, line)
      }
      // An allocation of nothing takes no place; that it is freed later is no surprise.
      space.blocks.set(id, size === 0 ? NOTHING : steps.take(size, line))
    } else if (GIVES.has(type)) {
      const block = space.blocks.get(id)
      if (block !== undefined) {
        space.blocks.delete(id)
        steps.give(block, line)
      } else if (type === 'free' && wanted(entry)) {
        skipped.unmatchedFrees++
      }
    } else if (REFUSED.has(type) && wanted(entry)) {
      skipped.refused++
    }
  }
  if (skipped.filtered > 0 && steps.count === 0) {
    throw outOfRange(
      `replayEventLog: none of the log's ${skipped.filtered} allocations is of these kinds, pools and tags`,
      {
        hint: 'null in `pools` and `tags` stands for what is of no pool or has no tag',
      },
    )
  }
  return { ...steps.done(), skipped }
}

const NOTHING = -1

class Steps {
  count = 0
  slots = 0
  #sizes = new Float64Array(1024)
  #blocks = new Uint32Array(1024)
  #lines = new Float64Array(1024)
  #vacant = []
  #spaces = new Map()

  /** The names of allocations are those of one kind and pool. */
  space(kind, pool) {
    const name = `${kind}\n${pool}`
    if (!this.#spaces.has(name)) this.#spaces.set(name, { kind, pool, blocks: new Map() })
    return this.#spaces.get(name)
  }

  /** Returns the block's number. */
  take(size, line) {
    const block = this.#vacant.pop() ?? this.slots++
    this.#add(size, block, line)
    return block
  }

  give(block, line) {
    if (block === NOTHING) return
    this.#vacant.push(block)
    this.#add(0, block, line)
  }

  done() {
    const upTo = (array) => array.subarray(0, this.count)
    return { sizes: upTo(this.#sizes), blocks: upTo(this.#blocks), lines: this.#lines, slots: this.slots }
  }

  #add(size, block, line) {
    if (this.count === this.#sizes.length) {
      this.#sizes = twice(this.#sizes)
      this.#blocks = twice(this.#blocks)
      this.#lines = twice(this.#lines)
    }
    this.#sizes[this.count] = size
    this.#blocks[this.count] = block
    this.#lines[this.count++] = line
  }
}

function twice(array) {
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
    hint: blockSize === undefined ? 'is this size what the log means?' : 'give larger blocks, or leave blockSize out',
  })
}

module.exports = { replayEventLog }
