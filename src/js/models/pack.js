'use strict'

// Packs items into bins.
//
// Up to EXACT items the result is optimal: the fewest bins, and among those the packing whose fullest bin has the most
// room left. Above that it is first-fit decreasing, which needs at most 11/9 of the fewest bins plus one where all bins
// are equal (Dósa 2007). An item may be fixed to one bin.

const EXACT = 8

/**
 * @param {number[]} sizes
 * @param {number[]} rooms
 * @param {Array<number | null>} [fixed] the bin of an item that fits in no other; null for the others
 * @returns {number[] | null} the bin of each item; null if they do not fit
 */
function pack(sizes, rooms, fixed = []) {
  const left = [...rooms]
  /** @type {number[]} */
  const free = []
  sizes.forEach((size, item) => {
    const bin = fixed[item] ?? null
    if (bin === null) free.push(item)
    else left[bin] -= size
  })
  if (left.some((room) => room < 0)) return null
  const taken = [...new Set(fixed.filter((bin) => bin !== null && bin !== undefined))].map(Number)
  const wanted = free.map((item) => sizes[item])
  const bins = free.length <= EXACT ? packExactly(wanted, left, taken) : packGreedily(wanted, left, taken)
  if (bins === null) return null
  const byItem = new Map(free.map((item, i) => [item, bins[i]]))
  return sizes.map((_, item) => byItem.get(item) ?? Number(fixed[item]))
}

/** @type {(values: number[]) => number[]} */
const descending = (values) => values.map((_, i) => i).sort((a, b) => values[b] - values[a] || a - b)

/** @typedef {(sizes: number[], rooms: number[], taken: number[]) => number[] | null} Pack `taken` bins are in use */

/** @type {Pack} */
function packGreedily(sizes, rooms, taken) {
  const left = [...rooms]
  const bins = new Array(sizes.length)
  const order = [...taken, ...rooms.keys()]
  for (const item of descending(sizes)) {
    const bin = order.find((each) => sizes[item] <= left[each])
    if (bin === undefined) return null
    bins[item] = bin
    left[bin] -= sizes[item]
  }
  return bins
}

/**
 * Tries the bins in use and the roomiest others only: swapping a used bin for a roomier unused one never makes a
 * packing worse.
 *
 * @type {Pack}
 */
function packExactly(sizes, rooms, taken) {
  const others = descending(rooms).filter((bin) => !taken.includes(bin))
  const most = Math.min(others.length, sizes.length)
  const fewest = taken.length > 0 ? 0 : Math.min(1, sizes.length)
  for (let count = fewest; count <= most; count++) {
    const chosen = [...taken, ...others.slice(0, count)]
    const bins = packInto(
      sizes,
      chosen.map((bin) => rooms[bin]),
      taken.length,
    )
    if (bins !== null) return bins.map((bin) => chosen[bin])
  }
  return null
}

/**
 * Finds the packing that leaves the most room in the fullest bin. Searches depth first, the largest items first, and
 * tries equal bins once.
 *
 * @param {number[]} sizes
 * @param {number[]} rooms
 * @param {number} used the first bins are in use already
 * @returns {number[] | null}
 */
function packInto(sizes, rooms, used) {
  const order = descending(sizes)
  const left = [...rooms]
  const bins = new Array(sizes.length)
  /** @type {{ room: number, bins: number[] } | null} */
  let best = null

  const visit = (/** @type {number} */ depth, /** @type {number} */ room) => {
    // Prunes: the room in the fullest bin only shrinks from here on.
    if (best !== null && room <= best.room) return
    if (depth === order.length) {
      best = { room, bins: [...bins] }
      return
    }
    const item = order[depth]
    const tried = new Set()
    for (const bin of descending(left)) {
      const before = left[bin]
      const key = bin < used ? `used ${before}` : before
      if (sizes[item] > before || tried.has(key)) continue
      tried.add(key)
      bins[item] = bin
      left[bin] -= sizes[item]
      visit(depth + 1, Math.min(room, left[bin]))
      left[bin] = before
    }
  }
  const start = Math.min(Infinity, ...rooms.slice(0, used))
  if (sizes.reduce((a, b) => a + b, 0) <= rooms.reduce((a, b) => a + b, 0)) visit(0, start)
  // Assigned in `visit`, which the checker does not follow.
  return /** @type {{ bins: number[] } | null} */ (best)?.bins ?? null
}

module.exports = { pack, EXACT }
