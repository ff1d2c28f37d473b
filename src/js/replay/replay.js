'use strict'

// Replays a recorded log against pools of other sizes, to find out whether they would have been large enough.
//
// The log is reduced to two arrays of numbers, sizes and blocks. The native part runs the real suballocators over them,
// without memory.

const native = require('../core/binding.js')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { check, invalid, kinds, outOfRange, formatValue } = require('../core/options.js')
const { KNOWN, readLog } = require('./event-log.js')

/** A capacity that no log reaches. */
const UNLIMITED = 2 ** 50

const ALIGNMENT = 64

/** The most fixed blocks: each takes 12 bytes of table, used or not. */
const MAX_BLOCKS = 2 ** 26

/** Entry types by their effect. */
const ALLOCATES = 'allocate'
const FREES = new Set(['free', 'collect'])
const FAILS = 'fail'

/**
 * A list of names; null stands for entries without a name.
 *
 * @type {import('../core/options.js').Validator<Array<string | null>>}
 */
const nameList = (name, value) => {
  if (!Array.isArray(value)) throw invalid(`${name} must be an array, not ${formatValue(value)}`)
  const wrong = value.find((item) => item !== null && typeof item !== 'string')
  if (wrong !== undefined || value.includes(undefined))
    throw invalid(`${name} must hold strings and null, not ${formatValue(wrong)}`)
  return [...value]
}

const replayOptions = {
  capacity: kinds.integer(1),
  suballocator: kinds.oneOf('tlsf', 'fixed'),
  blockSize: kinds.integer(1),
  chunkSize: kinds.integer(1),
  initialSize: kinds.integer(0),
  maxSize: kinds.integer(1),
  alignment: kinds.integer(1),
  kinds: nameList,
  pools: nameList,
  tags: nameList,
  smallestCapacity: kinds.boolean,
}

/**
 * @typedef {import('../types/replay.js').ReplayOptions} ReplayOptions
 * @typedef {import('../types/replay.js').ReplayResult} ReplayResult
 * @typedef {import('../native.js').ReplayLayout} ReplayLayout
 * @typedef {import('../native.js').ReplayFailure} ReplayFailure
 * @typedef {import('./event-log.js').Entry} Entry
 * @typedef {Pick<import('../core/options.js').Checked<typeof replayOptions>, 'kinds' | 'pools' | 'tags'>} Filters
 */

/**
 * Implements `replayEventLog`.
 *
 * @param {unknown} log
 * @param {ReplayOptions} [options]
 * @param {(line: number) => void} [progress] called for each entry, with its line; for the command line, not public
 * @returns {ReplayResult}
 */
function replayEventLog(log, options, progress = undefined) {
  const {
    kinds,
    pools,
    tags,
    smallestCapacity: searched = false,
    ...sizes
  } = check('replayEventLog', options, replayOptions)
  const steps = stepsOf(readLog(log), { kinds, pools, tags }, progress)
  const pool = layoutOf(sizes, steps.slots)
  const smallest =
    searched || pool.capacity === null ? native.replaySmallest(steps.sizes, steps.blocks, pool.unlimited) : null
  if (pool.capacity === null && smallest === null) throw neverFitsError(steps, sizes)
  const capacity = pool.capacity ?? /** @type {number} */ (smallest)
  const { firstFailure, ...outcome } = native.replayLog(steps.sizes, steps.blocks, pool.withCapacity(capacity))
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

/** @type {(failure: ReplayFailure, lines: Float64Array) => NonNullable<ReplayResult['firstFailure']>} */
const failureAt = ({ step, ...figures }, lines) => ({ line: lines[step], ...figures })

/**
 * Lays out the pool: with all of its capacity at once, or growing by chunks.
 *
 * @param {ReplayOptions} sizes
 * @param {number} slots
 * @returns {{ capacity: number | null, unlimited: ReplayLayout, withCapacity: (capacity: number) => ReplayLayout }}
 */
function layoutOf(
  { capacity, maxSize, suballocator, blockSize, chunkSize, initialSize, alignment = ALIGNMENT },
  slots,
) {
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
    const withCapacity = (/** @type {number} */ size) => ({ ...layout, initial: size, max: size, chunk: size })
    return { capacity: limit, unlimited: withCapacity(all || UNLIMITED), withCapacity }
  }
  const [initial, chunk] = [initialSize ?? 0, chunkSize ?? initialSize ?? 0]
  const unlimited = { ...layout, initial, chunk, max: all === 0 ? UNLIMITED : all + initial + chunk }
  // Without a limit the answer is the size to which the pool grows.
  return {
    capacity: limit ?? UNLIMITED,
    unlimited,
    withCapacity: (max) => (max === UNLIMITED ? unlimited : { ...unlimited, max }),
  }
}

/**
 * Reduces entries to numbers: step i allocates `sizes[i]` bytes for block `blocks[i]`, or frees the block where that is
 * 0.
 *
 * @param {Iterable<Entry>} entries
 * @param {Filters} filters
 * @param {(line: number) => void} [progress]
 */
function stepsOf(entries, filters, progress) {
  const wanted = makeFilter(filters)
  const steps = new Steps()
  const skipped = { filtered: 0, refused: 0, unmatchedFrees: 0, lostFrees: 0, unknown: new Unknown() }
  let known = 0
  /** @type {Space | undefined} */
  let space
  for (const entry of entries) {
    const { type, kind, pool, id, size, line } = entry
    if (typeof progress === 'function') progress(line)
    if (space === undefined || space.kind !== kind || space.pool !== pool) space = steps.space(kind, pool)
    if (type === ALLOCATES) {
      if (!wanted(entry)) {
        skipped.filtered++
        continue
      }
      if (!Number.isSafeInteger(size) || size < 0) {
        throw outOfRange(
          `replayEventLog: line ${line} allocates ${formatValue(entry.size)} bytes; it must be a whole number`,
        )
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
    } else if (type === FAILS) {
      if (wanted(entry)) skipped.refused++
    } else if (!KNOWN.has(type)) {
      skipped.unknown.count(type)
      continue
    }
    known++
  }
  const unknown = skipped.unknown.byAction()
  if (known === 0 && skipped.filtered === 0 && Object.keys(unknown).length > 0) throw notUnderstoodError(unknown)
  if (skipped.filtered > 0 && steps.count === 0) {
    throw outOfRange(
      `replayEventLog: none of the log's ${skipped.filtered} allocations is of these kinds, pools and tags`,
      {
        hint: 'null in `pools` and `tags` stands for allocations without a pool or tag',
      },
    )
  }
  return { ...steps.done(), skipped: { ...skipped, unknown } }
}

/** The most actions that are counted one by one. */
const MAX_UNKNOWN = 100

/** Counts entries that were not understood, by action. */
class Unknown {
  /** @type {Map<string, number>} */
  #counts = new Map()

  /** @param {unknown} type */
  count(type) {
    const word = typeof type === 'string' ? type : formatValue(type)
    const action = this.#counts.has(word) || this.#counts.size < MAX_UNKNOWN ? word : '(others)'
    this.#counts.set(action, (this.#counts.get(action) ?? 0) + 1)
  }

  /** @returns {Record<string, number>} */
  byAction() {
    // Not assigned one by one: an action may be called "__proto__".
    return Object.fromEntries(this.#counts)
  }
}

/** @param {Record<string, number>} unknown */
function notUnderstoodError(unknown) {
  const all = Object.values(unknown).reduce((sum, count) => sum + count, 0)
  const words = Object.keys(unknown).slice(0, 5).map(formatValue).join(', ')
  return outOfRange(`replayEventLog: none of the log's ${all} entries was understood; their actions are ${words}`, {
    hint: 'an action is allocate or free, as in logs of this package, of RMM and of PyTorch',
  })
}

const NO_BLOCK = -1

/**
 * The live blocks of one kind and pool, by id.
 *
 * @typedef {{ kind: unknown, pool: unknown, blocks: Map<unknown, number> }} Space
 */

/** The steps of a replay, in growing arrays. */
class Steps {
  count = 0
  slots = 0
  #sizes = new Float64Array(1024)
  #blocks = new Uint32Array(1024)
  #lines = new Float64Array(1024)
  /** @type {number[]} */
  #freeBlocks = []
  /** @type {Map<string, Space>} */
  #spaces = new Map()

  /**
   * Returns the live blocks of one kind and pool, by id: ids are unique within those.
   *
   * @param {unknown} kind
   * @param {unknown} pool
   * @returns {Space}
   */
  space(kind, pool) {
    const name = `${kind}\n${pool}`
    const known = this.#spaces.get(name)
    if (known !== undefined) return known
    const made = { kind, pool, blocks: new Map() }
    this.#spaces.set(name, made)
    return made
  }

  /**
   * Adds an allocation, and returns its block's number.
   *
   * @param {number} size
   * @param {number} line
   */
  allocate(size, line) {
    const block = this.#freeBlocks.pop() ?? this.slots++
    this.#add(size, block, line)
    return block
  }

  /**
   * @param {number} block
   * @param {number} line
   */
  free(block, line) {
    if (block === NO_BLOCK) return
    this.#freeBlocks.push(block)
    this.#add(0, block, line)
  }

  done() {
    const [sizes, blocks] = [this.#sizes.subarray(0, this.count), this.#blocks.subarray(0, this.count)]
    return { sizes, blocks, lines: this.#lines, slots: this.slots }
  }

  /**
   * @param {number} size
   * @param {number} block
   * @param {number} line
   */
  #add(size, block, line) {
    if (this.count === this.#sizes.length) {
      this.#sizes = doubled(this.#sizes, Float64Array)
      this.#blocks = doubled(this.#blocks, Uint32Array)
      this.#lines = doubled(this.#lines, Float64Array)
    }
    this.#sizes[this.count] = size
    this.#blocks[this.count] = block
    this.#lines[this.count++] = line
  }
}

/**
 * @template {Float64Array | Uint32Array} T
 * @param {T} array
 * @param {new (length: number) => T} Type
 */
function doubled(array, Type) {
  const larger = new Type(array.length * 2)
  larger.set(array)
  return larger
}

/**
 * @param {Filters} lists
 * @returns {(entry: Entry) => boolean}
 */
function makeFilter({ kinds, pools, tags }) {
  if (kinds === undefined && pools === undefined && tags === undefined) return () => true
  /** @type {(list: unknown[] | undefined, value: unknown) => boolean} */
  const has = (list, value) => list === undefined || list.includes(value)
  return ({ kind, pool, tag }) => has(kinds, kind) && has(pools, pool) && has(tags, tag)
}

/**
 * @param {{ sizes: Float64Array }} steps
 * @param {ReplayOptions} pool
 */
function neverFitsError({ sizes }, { blockSize }) {
  const largest = sizes.reduce((most, size) => Math.max(most, size), 0)
  const blocks = blockSize === undefined ? '' : ` in blocks of ${formatBytes(blockSize)}`
  return memoryError('ERR_OUT_OF_RANGE', `replayEventLog: no capacity is enough for ${formatBytes(largest)}${blocks}`, {
    requested: largest,
    hint: blockSize === undefined ? 'check this size in the log' : 'give larger blocks, or leave blockSize out',
  })
}

module.exports = { replayEventLog }
