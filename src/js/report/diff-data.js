'use strict'

// Encodes the comparison of two snapshots for the page, in turns of the event loop and with a bounded number of rows.

const { version } = require('../../../package.json')
const { slices } = require('../core/turns.js')
const { growthBy, identity } = require('./diff.js')
const { holdersInTurns } = require('./holders.js')
const { largest } = require('./largest.js')
const { encoders, totalsOf } = require('./page-data.js')

/** The most rows of growth, and the most holders that were added or are gone. */
const [MAX_GROUPS, MAX_HOLDERS] = [1000, 10_000]

/**
 * @typedef {import('../types/report.js').MemorySnapshot} MemorySnapshot
 * @typedef {import('./holders.js').Holder} Holder
 */

/**
 * @param {MemorySnapshot} a
 * @param {MemorySnapshot} b
 */
async function diffData(a, b) {
  const [before, after] = [await holdersInTurns(a), await holdersInTurns(b)]
  const { indexOf, list, held } = encoders()
  /** @type {(name: 'tag' | 'stack' | 'pool' | 'kind') => Promise<{ rows: object[], left: number }>} */
  const growth = async (name) => {
    const groups = growthBy(name)
    for await (const slice of slices(before)) groups.before(slice)
    for await (const slice of slices(after)) groups.after(slice)
    const all = groups.sorted()
    const rows = all.length <= MAX_GROUPS ? all : mostChanged(all)
    return { rows: rows.map((row) => ({ ...row, [name]: indexOf(row[name]) })), left: all.length - rows.length }
  }
  /** @type {(list: Holder[], others: Holder[]) => Promise<object>} */
  const without = async (holders, others) => {
    const known = new Set()
    for await (const slice of slices(others)) for (const holder of slice) known.add(identity(holder))
    /** @type {Holder[]} */
    const found = []
    let bytes = 0
    for await (const slice of slices(holders)) {
      for (const holder of slice) {
        if (known.has(identity(holder))) continue
        found.push(holder)
        bytes += holder.size
      }
    }
    return { rows: await held(await largest(found, MAX_HOLDERS)), count: found.length, bytes }
  }
  const data = {
    version,
    takenAt: b.takenAt,
    device: b.device,
    before: { takenAt: a.takenAt, stats: a.stats },
    after: { takenAt: b.takenAt, stats: b.stats },
    held: await totalsOf(after, indexOf),
    byTag: await growth('tag'),
    byKind: await growth('kind'),
    byPool: await growth('pool'),
    bySite: await growth('stack'),
    added: await without(after, before),
    gone: await without(before, after),
  }
  return { ...data, strings: list() }
}

/**
 * The rows that changed most, in the order of the list.
 *
 * @template {{ growth: number }} T
 * @param {T[]} rows
 */
function mostChanged(rows) {
  const chosen = new Set([...rows].sort((a, b) => Math.abs(b.growth) - Math.abs(a.growth)).slice(0, MAX_GROUPS))
  return rows.filter((row) => chosen.has(row))
}

module.exports = { diffData }
