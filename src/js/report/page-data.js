'use strict'

// Encodes snapshot and profile for the page: lists as columns, each string once. With 50,000 buffers this is a third of
// the size.

const { version } = require('../../../package.json')
const { hexAddresses } = require('../core/json.js')
const { holders } = require('./holders.js')

/** The most events on the page; the .csv report has all. */
const MAX_EVENTS = 50_000

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
 * @type {<Row>(rows: Row[], makers: Record<string, (row: Row) => unknown>) => Record<string, unknown[]>}
 */
const columns = (rows, makers) =>
  Object.fromEntries(Object.entries(makers).map(([name, make]) => [name, rows.map(make)]))

/** @type {(address: bigint | string | null | undefined) => unknown} */
const hex = (address) => (address === null || address === undefined ? null : hexAddresses('', address))

/** @typedef {{ kind: string, tag: string | null, pool: string | null }} Named */
/** @typedef {Pick<import('./holders.js').Holder, 'id' | 'size' | 'stack' | 'allocatedAt' | 'buffer'> & Named} Held */

/**
 * @param {import('../types/report.js').MemorySnapshot} snapshot
 * @param {import('../types/profiling.js').MemoryProfile} profile
 */
function pageData(snapshot, profile) {
  const { indexOf, list } = stringTable()
  const named = {
    kind: (/** @type {Named} */ { kind }) => indexOf(kind),
    tag: (/** @type {Pick<Named, 'tag'>} */ { tag }) => indexOf(tag),
    pool: (/** @type {Named} */ { pool }) => indexOf(pool),
  }
  const facts = (/** @type {Held} */ holder) => {
    const { buffer } = holder
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
      facts,
    })
  const { events, timeline, callSites, leaks = null, ...figures } = profile
  const shownEvents = events.slice(-MAX_EVENTS)
  const data = {
    version,
    takenAt: snapshot.takenAt,
    device: snapshot.device,
    stats: snapshot.stats,
    profile: { ...figures, events: events.length },
    holders: held(holders(snapshot)),
    leaks: leaks === null ? null : held(leaks.map((buffer) => ({ ...buffer, buffer }))),
    pools: snapshot.pools.map(({ chunkMaps, ...stats }) => ({
      ...stats,
      maps: chunkMaps.map(({ size, blocks }) => ({
        total: size,
        ...columns(blocks, {
          offset: ({ offset }) => offset,
          size: ({ size }) => size,
          id: ({ id }) => id,
          tag: ({ tag }) => indexOf(tag),
          stack: ({ stack }) => indexOf(stack),
        }),
      })),
    })),
    sites: columns(callSites, {
      stack: ({ stack }) => indexOf(stack),
      tag: named.tag,
      liveBytes: ({ liveBytes }) => liveBytes,
      liveCount: ({ liveCount }) => liveCount,
      totalBytes: ({ totalBytes }) => totalBytes,
      totalCount: ({ totalCount }) => totalCount,
    }),
    events: columns(shownEvents, {
      ...named,
      type: ({ type }) => indexOf(type),
      time: ({ timeUs }) => timeUs,
      id: ({ id }) => id,
      size: ({ size }) => size,
    }),
    timeline: columns(timeline, {
      time: ({ timeMs }) => timeMs,
      npuUsed: ({ npuUsed }) => npuUsed,
      systemUsed: ({ systemUsed }) => systemUsed,
      poolReserved: ({ poolReserved }) => poolReserved,
    }),
  }
  return { ...data, strings: list() }
}

module.exports = { pageData }
