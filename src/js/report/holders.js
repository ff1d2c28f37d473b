'use strict'

// Lists the holders of memory in a snapshot, each once: buffers, and pool blocks without an ArrayBuffer.

const { formatValue, invalid } = require('../core/options.js')
const { slices } = require('../core/turns.js')

/**
 * A holder, and the buffer if it is one.
 *
 * @typedef {import('../types/report.js').MemoryHolder & {
 *   buffer: import('../types/allocations.js').BufferInfo | null,
 *   pinned?: boolean,
 *   dropped?: boolean,
 * }} Holder
 *
 * @typedef {Pick<import('../types/report.js').MemorySnapshot, 'buffers' | 'pools'>} Lists
 */

/** @type {(value: unknown) => boolean} */
const isName = (value) => value === null || value === undefined || typeof value === 'string'

/**
 * Throws if a snapshot from a file has an entry that is none.
 *
 * @type {(entry: { id: unknown, size: unknown, tag: unknown, stack?: unknown, pool?: unknown }) => void}
 */
function checkEntry({ id, size, tag, stack, pool }) {
  if (Number.isFinite(size) && isName(tag) && isName(stack) && isName(pool)) return
  throw invalid(
    `the buffer or block ${formatValue(id)} of a snapshot is none: size ${formatValue(size)}, tag ${formatValue(tag)}`,
    'take the snapshot again, with manager.takeSnapshot() or a .json report',
  )
}

/**
 * The functions that make holders of the lists of a snapshot. Buffers come first.
 *
 * @param {Lists} snapshot
 */
function holderMaker({ pools }) {
  // A slice without a tag of its own counts under its pool's.
  const tagOf = new Map(pools.map(({ name, tag = null }) => [name, tag]))
  const known = new Set()
  /** @type {Holder[]} */
  const all = []
  return {
    all,
    /** @param {Lists['buffers']} buffers */
    addBuffers(buffers) {
      for (const buffer of buffers) {
        const { id, kind, size, tag: own, pool, stack = null, allocatedAt, pinned, dropped } = buffer
        checkEntry(buffer)
        const tag = own ?? (pool === null ? null : (tagOf.get(pool) ?? null))
        known.add(id)
        all.push({ id, kind, size, tag, pool, stack, allocatedAt, buffer, pinned, dropped })
      }
    },
    /** @type {(pool: Pick<Lists['pools'][number], 'name' | 'kind'>, blocks: Blocks) => void} */
    addBlocks({ name, kind }, blocks) {
      for (const block of blocks) {
        const { id, size, tag, stack = null, pinned, dropped } = block
        if (id === null || known.has(id)) continue
        checkEntry(block)
        all.push({ id, kind, size, tag, pool: name, stack, allocatedAt: null, buffer: null, pinned, dropped })
      }
    },
  }
}
/** @typedef {Lists['pools'][number]['chunkMaps'][number]['blocks']} Blocks */

/** @param {Lists} snapshot */
function holders(snapshot) {
  const { all, addBuffers, addBlocks } = holderMaker(snapshot)
  addBuffers(snapshot.buffers)
  for (const pool of snapshot.pools) for (const { blocks } of pool.chunkMaps) addBlocks(pool, blocks)
  return all
}

/**
 * The same in turns of the event loop.
 *
 * @param {Lists} snapshot
 */
async function holdersInTurns(snapshot) {
  const { all, addBuffers, addBlocks } = holderMaker(snapshot)
  for await (const slice of slices(snapshot.buffers)) addBuffers(slice)
  for (const pool of snapshot.pools)
    for (const { blocks } of pool.chunkMaps) for await (const slice of slices(blocks)) addBlocks(pool, slice)
  return all
}

module.exports = { holders, holdersInTurns, isName }
