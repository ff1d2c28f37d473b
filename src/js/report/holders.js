'use strict'

// Lists the holders of memory in a snapshot, each once: buffers, and pool blocks without an ArrayBuffer.

/**
 * A holder, and the buffer if it is one.
 *
 * @typedef {import('../types/report.js').MemoryHolder & {
 *   buffer: import('../types/allocations.js').BufferInfo | null,
 * }} Holder
 */

/**
 * @param {Pick<import('../types/report.js').MemorySnapshot, 'buffers' | 'pools'>} snapshot
 * @returns {Holder[]}
 */
function holders({ buffers, pools }) {
  // A slice without a tag of its own counts under its pool's.
  const tagOf = new Map(pools.map(({ name, tag = null }) => [name, tag]))
  /** @type {Holder[]} */
  const all = buffers.map((buffer) => {
    const { id, kind, size, tag: own, pool, stack = null, allocatedAt } = buffer
    const tag = own ?? (pool === null ? null : (tagOf.get(pool) ?? null))
    return { id, kind, size, tag, pool, stack, allocatedAt, buffer }
  })
  const known = new Set(buffers.map(({ id }) => id))
  for (const { name, kind, chunkMaps } of pools) {
    for (const { blocks } of chunkMaps) {
      for (const { id, size, tag, stack = null } of blocks) {
        if (id === null || known.has(id)) continue
        all.push({ id, kind, size, tag, pool: name, stack, allocatedAt: null, buffer: null })
      }
    }
  }
  return all
}

module.exports = { holders }
