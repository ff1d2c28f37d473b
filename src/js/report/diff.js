'use strict'

// Implements `diffSnapshots`: the growth between two snapshots, the largest first.

const { invalid, outOfRange, formatValue } = require('../core/options.js')
const { holders, isName } = require('./holders.js')

/**
 * @typedef {import('../types/report.js').MemorySnapshot} MemorySnapshot
 * @typedef {import('../types/report.js').MemoryHolder} MemoryHolder
 * @typedef {import('../types/report.js').Growth} Growth
 * @typedef {import('../types/report.js').SnapshotDiff} SnapshotDiff
 * @typedef {import('./holders.js').Holder} Holder
 */

/** @type {(value: any) => boolean} */
const isObject = (value) => typeof value === 'object' && value !== null
/** @type {(value: any, is: (entry: any) => boolean) => boolean} */
const isListOf = (value, is) => Array.isArray(value) && value.every(is)
/** @type {(map: any) => boolean} */
const hasBlocks = (map) => isObject(map) && isListOf(map.blocks, isObject)
/** @type {(pool: any) => boolean} */
const isPool = (pool) =>
  isObject(pool) && typeof pool.name === 'string' && isName(pool.tag) && isListOf(pool.chunkMaps, hasBlocks)
/** @type {(stats: any) => boolean} */
const isStats = (stats) =>
  isObject(stats) && [stats.npuUsed, stats.systemUsed, stats.poolReserved].every(Number.isFinite)

/**
 * Checks a snapshot, except for its buffers and blocks, which `holders` checks.
 *
 * @param {string} name
 * @param {any} value
 */
function checkSnapshot(name, value, verb = 'diffSnapshots') {
  if (typeof value !== 'object' || value === null)
    throw invalid(`${verb}: ${name} must be a snapshot, not ${formatValue(value)}`)
  const { version, takenAt, stats, buffers, pools } = value
  if (
    !isListOf(buffers, isObject) ||
    !isListOf(pools, isPool) ||
    !Number.isFinite(takenAt) ||
    !isStats(stats)
  ) {
    throw invalid(
      `${verb}: ${name} is not a snapshot`,
      'take one with manager.takeSnapshot(), or read the "snapshot" of a .json report',
    )
  }
  if (version !== 1)
    throw outOfRange(`${verb}: ${name} is of version ${formatValue(version)}; this package reads version 1`)
  return value
}

/**
 * Sums bytes and counts by key, of both snapshots.
 *
 * @template {'tag' | 'stack' | 'pool' | 'kind'} Name
 * @param {Name} name
 */
function growthBy(name) {
  /** @type {Map<unknown, any>} */
  const groups = new Map()
  /** @type {(list: Holder[], bytes: 'before' | 'after', number: 'countBefore' | 'countAfter') => void} */
  const count = (list, bytes, number) => {
    for (const holder of list) {
      const key = holder[name]
      let group = groups.get(key)
      if (group === undefined)
        groups.set(key, (group = { [name]: key, before: 0, after: 0, growth: 0, countBefore: 0, countAfter: 0 }))
      group[bytes] += holder.size
      group[number]++
    }
  }
  return {
    /** @param {Holder[]} list */
    before: (list) => count(list, 'before', 'countBefore'),
    /** @param {Holder[]} list */
    after: (list) => count(list, 'after', 'countAfter'),
    /**
     * The groups, the largest growth first.
     *
     * @returns {Array<Growth & Pick<Holder, Name>>}
     */
    sorted() {
      for (const group of groups.values()) group.growth = group.after - group.before
      return [...groups.values()].sort((a, b) => b.growth - a.growth || b.after - a.after)
    },
  }
}

/**
 * @template {'tag' | 'stack' | 'pool' | 'kind'} Name
 * @param {Name} name
 * @param {Holder[]} before
 * @param {Holder[]} after
 */
function growth(name, before, after) {
  const groups = growthBy(name)
  groups.before(before)
  groups.after(after)
  return groups.sorted()
}

/** @type {(holder: Holder) => MemoryHolder} Returns a holder without the fields that only the report's page needs. */
const plain = ({ buffer, pinned, dropped, ...holder }) => holder

/**
 * Identifies a holder. The ids of two processes may be the same, so the size is compared too.
 *
 * @param {Holder} holder
 */
const identity = ({ id, size }) => `${id}:${size}`

/** @type {(list: Holder[], others: Holder[]) => MemoryHolder[]} */
const without = (list, others) => {
  const known = new Set(others.map(identity))
  return list
    .filter((holder) => !known.has(identity(holder)))
    .sort((a, b) => b.size - a.size)
    .map(plain)
}

/**
 * Compares two snapshots, `a` before `b`.
 *
 * @param {MemorySnapshot} a
 * @param {MemorySnapshot} b
 * @returns {SnapshotDiff}
 */
function diffSnapshots(a, b) {
  checkSnapshot('the first argument', a)
  checkSnapshot('the second argument', b)
  const [before, after] = [holders(a), holders(b)]
  return {
    elapsedMs: b.takenAt - a.takenAt,
    npuUsed: b.stats.npuUsed - a.stats.npuUsed,
    systemUsed: b.stats.systemUsed - a.stats.systemUsed,
    poolReserved: b.stats.poolReserved - a.stats.poolReserved,
    byTag: growth('tag', before, after),
    bySite: growth('stack', before, after),
    byPool: growth('pool', before, after),
    byKind: growth('kind', before, after),
    added: without(after, before),
    gone: without(before, after),
  }
}

module.exports = { checkSnapshot, diffSnapshots, growthBy, identity }
