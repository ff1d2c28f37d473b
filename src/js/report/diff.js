'use strict'

// Implements `diffSnapshots`: the growth between two snapshots, the largest first.

const { invalid, outOfRange, shown } = require('../core/options.js')
const { holders } = require('./holders.js')

function checkSnapshot(name, value) {
  if (typeof value !== 'object' || value === null)
    throw invalid(`diffSnapshots: ${name} must be a snapshot, not ${shown(value)}`)
  const { version, takenAt, stats, buffers, pools } = value
  if (
    !Array.isArray(buffers) ||
    !Array.isArray(pools) ||
    typeof takenAt !== 'number' ||
    typeof stats !== 'object' ||
    stats === null
  ) {
    throw invalid(
      `diffSnapshots: ${name} is not a snapshot`,
      'take one with manager.takeSnapshot(), or read the "snapshot" of a .json report',
    )
  }
  if (version !== 1)
    throw outOfRange(`diffSnapshots: ${name} is of version ${shown(version)}; this package reads version 1`)
  return value
}

/** Sums bytes and counts by key in both snapshots, sorted by growth. */
function growth(name, keyOf, before, after) {
  const groups = new Map()
  const count = (list, bytes, number) => {
    for (const holder of list) {
      const key = keyOf(holder)
      let group = groups.get(key)
      if (group === undefined)
        groups.set(key, (group = { [name]: key, before: 0, after: 0, growth: 0, countBefore: 0, countAfter: 0 }))
      group[bytes] += holder.size
      group[number]++
    }
  }
  count(before, 'before', 'countBefore')
  count(after, 'after', 'countAfter')
  for (const group of groups.values()) group.growth = group.after - group.before
  return [...groups.values()].sort((a, b) => b.growth - a.growth || b.after - a.after)
}

/** Returns a holder without the field that only the report's page needs. */
const plain = ({ buffer, ...holder }) => holder

/** Identifies a holder. The id alone is not enough: a new block at the same address has the same id. */
const identity = ({ id, size, allocatedAt }) => `${id}:${size}:${allocatedAt}`

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
 * @param {object} a
 * @param {object} b
 */
function diffSnapshots(a, b) {
  checkSnapshot('the first argument', a)
  checkSnapshot('the second argument', b)
  const [before, after] = [holders(a), holders(b)]
  const by = (name, keyOf) => growth(name, keyOf, before, after)
  return {
    elapsedMs: b.takenAt - a.takenAt,
    npuUsed: b.stats.npuUsed - a.stats.npuUsed,
    systemUsed: b.stats.systemUsed - a.stats.systemUsed,
    poolReserved: b.stats.poolReserved - a.stats.poolReserved,
    byTag: by('tag', ({ tag }) => tag),
    bySite: by('stack', ({ stack }) => stack),
    byPool: by('pool', ({ pool }) => pool),
    byKind: by('kind', ({ kind }) => kind),
    added: without(after, before),
    gone: without(before, after),
  }
}

module.exports = { diffSnapshots }
