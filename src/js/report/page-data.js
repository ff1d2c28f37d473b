'use strict'

// Encodes snapshot and profile for the page: lists as columns, each string once. With 50,000 buffers this is a third of
// the size.

const { version } = require('../../../package.json')
const { hexAddresses } = require('../core/json.js')
const { slices } = require('../core/turns.js')
const { aliveOverTime } = require('./alive.js')
const { holdersInTurns } = require('./holders.js')
const { largest } = require('./largest.js')

/** The most events on the page; the .csv report has all. */
const MAX_EVENTS = 50_000
/** The most holders, the largest ones; their sums by tag count all. */
const MAX_HOLDERS = 100_000
/** The most blocks and gaps of pools that are drawn. */
const MAX_PIECES = 200_000
/** The most tags and reservations in tables of limits. */
const MAX_ROWS = 1000

/** Collects strings, each once; `indexOf` returns a string's index, -1 for none. */
function stringTable() {
  /** @type {Map<string, number>} */
  const indices = new Map()
  const indexOf = (/** @type {string | null | undefined} */ text) => {
    if (text === null || text === undefined) return -1
    let index = indices.get(text)
    if (index === undefined) indices.set(text, (index = indices.size))
    return index
  }
  return { indexOf, list: () => [...indices.keys()] }
}

/**
 * Makes columns of rows: each maker maps a row to the column's value.
 *
 * @type {<Row>(rows: Row[], makers: Record<string, (row: Row) => unknown>) => Promise<Record<string, unknown[]>>}
 */
async function columns(rows, makers) {
  /** @type {Record<string, unknown[]>} */
  const made = Object.fromEntries(Object.keys(makers).map((name) => [name, []]))
  for await (const slice of slices(rows)) {
    for (const [name, make] of Object.entries(makers)) for (const row of slice) made[name].push(make(row))
  }
  return made
}

/** @type {(address: bigint | string | null | undefined) => unknown} */
const hex = (address) => (address === null || address === undefined ? null : hexAddresses('', address))

/** @typedef {{ kind: string, tag: string | null, pool: string | null }} Named */
/** @typedef {Pick<import('./holders.js').Holder, 'id' | 'size' | 'stack' | 'allocatedAt' | 'buffer'> & Named} Row */
/** @typedef {Row & { pinned?: boolean, dropped?: boolean }} Held */

/** Makes the encoders of one page, which share a table of strings. */
function encoders() {
  const { indexOf, list } = stringTable()
  const named = {
    kind: (/** @type {Named} */ { kind }) => indexOf(kind),
    tag: (/** @type {Pick<Named, 'tag'>} */ { tag }) => indexOf(tag),
    pool: (/** @type {Named} */ { pool }) => indexOf(pool),
  }
  const facts = (/** @type {Held} */ { buffer }) => {
    if (buffer === null) return null
    const { address, deviceAddress, reservedSize, iommuDomain, dedicated, imported, shared, cacheable } = buffer
    return [hex(address), hex(deviceAddress), reservedSize, iommuDomain, +dedicated, +imported, +shared, +cacheable]
  }
  const held = (/** @type {Held[]} */ rows) =>
    columns(rows, {
      ...named,
      id: ({ id }) => id,
      size: ({ size }) => size,
      stack: ({ stack }) => indexOf(stack),
      at: ({ allocatedAt }) => allocatedAt,
      pin: ({ pinned, dropped }) => (dropped ? 2 : pinned ? 1 : 0),
      facts,
    })
  return { indexOf, list, named, held }
}

/** @param {Pick<import('./index.js').Figures, 'snapshot' | 'profile' | 'usage'>} figures */
async function pageData({ snapshot, profile, usage }) {
  const { indexOf, list, named, held } = encoders()
  const { events, timeline, callSites, leaks = null, ...figures } = profile
  const all = await holdersInTurns(snapshot)
  const shown = await largest(all, MAX_HOLDERS)
  const alive = await aliveOverTime(all, profile, snapshot.takenAt)
  const pools = []
  let pieces = 0
  for (const { chunkMaps, ...stats } of snapshot.pools) {
    const maps = []
    for (const { size, blocks } of chunkMaps) {
      pieces += blocks.length
      if (pieces > MAX_PIECES) break
      const map = await columns(blocks, {
        offset: ({ offset }) => offset,
        size: ({ size }) => size,
        id: ({ id }) => id,
        tag: ({ tag }) => indexOf(tag),
        stack: ({ stack }) => indexOf(stack),
      })
      maps.push({ total: size, ...map })
    }
    pools.push({ ...stats, maps, unmapped: chunkMaps.length - maps.length })
  }
  const data = {
    version,
    takenAt: snapshot.takenAt,
    device: snapshot.device,
    stats: snapshot.stats,
    usage: usage === undefined ? null : usageRows(usage),
    profile: { ...figures, events: events.length },
    holders: await held(shown),
    held: await totalsOf(all, indexOf),
    alive: alive && { ...alive, tags: alive.tags.map(indexOf), peak: await peakOf(alive.peak, held) },
    leaks: leaks === null ? null : await held(leaks.map((buffer) => ({ ...buffer, buffer }))),
    pools,
    sites: await columns(callSites, {
      stack: ({ stack }) => indexOf(stack),
      tag: named.tag,
      liveBytes: ({ liveBytes }) => liveBytes,
      liveCount: ({ liveCount }) => liveCount,
      totalBytes: ({ totalBytes }) => totalBytes,
      totalCount: ({ totalCount }) => totalCount,
    }),
    events: await columns(events.slice(-MAX_EVENTS), {
      ...named,
      type: ({ type }) => indexOf(type),
      time: ({ timeUs }) => timeUs,
      id: ({ id }) => id,
      size: ({ size }) => size,
    }),
    timeline: await columns(timeline, {
      time: ({ timeMs }) => timeMs,
      npuUsed: ({ npuUsed }) => npuUsed,
      systemUsed: ({ systemUsed }) => systemUsed,
      poolReserved: ({ poolReserved }) => poolReserved,
    }),
  }
  return { ...data, strings: list() }
}

/**
 * Bytes and counts of all holders, and by tag, the largest first.
 *
 * @param {Held[]} holders
 * @param {(tag: string | null) => number} indexOf
 */
async function totalsOf(holders, indexOf) {
  /** @type {Map<string | null, { tag: number, bytes: number, count: number }>} */
  const byTag = new Map()
  let bytes = 0
  for await (const slice of slices(holders)) {
    for (const { tag, size } of slice) {
      let total = byTag.get(tag)
      if (total === undefined) byTag.set(tag, (total = { tag: indexOf(tag), bytes: 0, count: 0 }))
      total.bytes += size
      total.count++
      bytes += size
    }
  }
  return { count: holders.length, bytes, byTag: [...byTag.values()].sort((a, b) => b.bytes - a.bytes) }
}

/** @type {(peak: any, held: (rows: Held[]) => Promise<object>) => Promise<object>} */
const peakOf = async ({ largest: rows, ...peak }, held) => ({
  ...peak,
  holders: await held(rows.map((/** @type {object} */ row) => ({ ...row, buffer: null }))),
})

/**
 * The part of the usage that the page has in tables, with a bounded number of rows.
 *
 * @param {import('../types/stats.js').MemoryUsage} usage
 */
function usageRows({ tags, reservations, pools: _pools, ...usage }) {
  const nearest = Object.entries(tags)
    .filter(([, { limit, failedAllocations }]) => limit !== null || failedAllocations > 0)
    .sort(([, a], [, b]) => b.taken / (b.limit ?? Infinity) - a.taken / (a.limit ?? Infinity))
  return {
    ...usage,
    tags: nearest.slice(0, MAX_ROWS).map(([tag, figures]) => ({ tag, ...figures })),
    reservations: [...reservations].sort((a, b) => b.size - a.size).slice(0, MAX_ROWS),
    reserved: reservations.reduce((sum, { size }) => sum + size, 0),
    reservationCount: reservations.length,
  }
}

module.exports = { encoders, pageData, totalsOf }
