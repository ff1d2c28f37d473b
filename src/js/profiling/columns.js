'use strict'

// Converts the native part's flat arrays to objects. A row is a run of numbers, and texts are indices into a list of
// strings (`src/node/profile.rs`).

const { jsonable } = require('../core/json.js')
const { slices } = require('../core/turns.js')

/**
 * @typedef {import('../native.js').Columns} Columns
 * @typedef {import('../types/allocations.js').BufferInfo} BufferInfo
 * @typedef {import('../types/allocations.js').MemoryKind} MemoryKind
 * @typedef {import('../types/profiling.js').Histogram} Histogram
 * @typedef {import('../types/profiling.js').MemoryEvent} MemoryEvent
 * @typedef {import('../types/report.js').MemorySnapshot} MemorySnapshot
 * @typedef {import('../types/stats.js').PoolStats} PoolStats
 * @typedef {MemorySnapshot['pools'][number]['chunkMaps'][number]['blocks'][number]} Block
 */

/** @type {MemoryKind[]} */
const KINDS = ['system', 'npu']
/** @type {MemoryEvent['type'][]} */
const ACTIONS = ['allocate', 'free', 'fail', 'grow', 'trim', 'move', 'collect']
const BUFFER = 13
/** @type {Array<{ pinned?: true, dropped?: true }>} */
const PINS = [{}, { pinned: true }, { pinned: true, dropped: true }]
const EVENT = 7
const BLOCK = 6

/**
 * Makes an object of each row: `make(at)`, where `at` is the index of its first number.
 *
 * @template T
 * @typedef {{ column: Float64Array, width: number, make: (at: number) => T }} Rows
 */

/**
 * @template T
 * @param {Rows<T>} rows
 * @returns {T[]}
 */
const all = ({ column, width, make }) => Array.from({ length: column.length / width }, (_, row) => make(row * width))

/**
 * The same in turns of the event loop.
 *
 * @template T
 * @param {Rows<T>} rows
 * @returns {Promise<T[]>}
 */
async function allInTurns({ column, width, make }) {
  /** @type {T[]} */
  const made = []
  for await (const slice of slices({ length: column.length / width, slice: range }))
    for (const row of slice) made.push(make(row * width))
  return made
}

/** @type {(from: number, to: number) => number[]} */
const range = (from, to) => Array.from({ length: to - from }, (_, at) => from + at)

/** @type {(texts: string[], at: number) => string | null} */
const textOf = (texts, at) => (at < 0 ? null : texts[at])

/**
 * The buffers of a snapshot.
 *
 * @param {Columns} columns
 * @param {BufferInfo['backend']} backend
 * @returns {Rows<BufferInfo>}
 */
function bufferRows({ rows: column, texts }, backend) {
  /** @param {number} at */
  const make = (at) => {
    const flags = column[at + 7]
    const onDevice = (flags & 32) !== 0
    const [device, domain] = [column[at + 6], column[at + 8]]
    return jsonable({
      id: column[at],
      kind: KINDS[column[at + 1]],
      size: column[at + 2],
      reservedSize: column[at + 3],
      tag: textOf(texts, column[at + 4]),
      backend: onDevice ? backend : null,
      address: BigInt(column[at + 5]),
      deviceAddress: device < 0 ? null : BigInt(device),
      cacheable: (flags & 1) !== 0,
      contiguous: (flags & 2) !== 0,
      iommuDomain: domain < 0 ? null : domain,
      dedicated: (flags & 4) !== 0,
      imported: (flags & 8) !== 0,
      shared: (flags & 16) !== 0,
      pinned: (flags & 64) !== 0,
      dropped: (flags & 128) !== 0,
      pool: textOf(texts, column[at + 9]),
      offset: column[at + 10],
      allocatedAt: column[at + 11],
      stack: textOf(texts, column[at + 12]),
    })
  }
  return { column, width: BUFFER, make }
}

/**
 * The events of a profile.
 *
 * @param {Columns} columns
 * @param {number} thread
 * @returns {Rows<MemoryEvent>}
 */
function eventRows({ rows: column, texts }, thread) {
  /** @param {number} at */
  const make = (at) => ({
    type: ACTIONS[column[at]],
    timeUs: column[at + 1],
    id: column[at + 2],
    kind: KINDS[column[at + 3]],
    size: column[at + 4],
    tag: textOf(texts, column[at + 5]),
    pool: textOf(texts, column[at + 6]),
    thread,
  })
  return { column, width: EVENT, make }
}

/**
 * The blocks and gaps of a pool's chunks.
 *
 * @param {Columns} columns
 * @returns {Rows<Block>}
 */
function blockRows({ rows: column, texts }) {
  /** @param {number} at */
  const make = (at) => ({
    offset: column[at],
    size: column[at + 1],
    id: column[at + 2] < 0 ? null : column[at + 2],
    tag: textOf(texts, column[at + 3]),
    stack: textOf(texts, column[at + 4]),
    ...PINS[column[at + 5]],
  })
  return { column, width: BLOCK, make }
}

/**
 * Builds a snapshot's pool: its figures, and the blocks and gaps of each chunk.
 *
 * @param {import('../native.js').PoolSnapshot} pool
 * @param {Block[]} blocks
 * @returns {MemorySnapshot['pools'][number]}
 */
function poolOf({ tag, stats, chunks }, blocks) {
  const chunkMaps = []
  for (let chunk = 0, from = 0; chunk < chunks.length; chunk += 2) {
    const to = from + chunks[chunk + 1]
    chunkMaps.push({ size: chunks[chunk], blocks: blocks.slice(from, to) })
    from = to
  }
  return { .../** @type {PoolStats} */ (stats), tag: tag ?? null, chunkMaps }
}

/**
 * Builds a histogram. Values are divided by `scale`, which converts their unit.
 *
 * @param {import('../native.js').Distribution} distribution
 * @returns {Histogram}
 */
function histogramOf({ buckets, count, ...figures }, scale = 1) {
  const entries = Object.entries(figures).map(([name, value]) => [name, value / scale])
  const scaled = /** @type {Omit<Histogram, 'count' | 'buckets'>} */ (Object.fromEntries(entries))
  /** @type {Histogram['buckets']} */
  const pairs = Array.from({ length: buckets.length / 2 }, (_, at) => [buckets[2 * at] / scale, buckets[2 * at + 1]])
  return { count, ...scaled, buckets: pairs }
}

module.exports = { all, allInTurns, blockRows, bufferRows, eventRows, histogramOf, poolOf }
