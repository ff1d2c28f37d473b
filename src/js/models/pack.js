'use strict'

// Packs items into bins.
//
// Up to EXACT items the result is optimal: the fewest bins, and among those the packing whose fullest bin has the most
// room left. Above that it is first-fit decreasing, which needs at most 11/9 of the fewest bins plus one where all bins
// are equal (Dósa 2007).

const EXACT = 8

/**
 * @param {number[]} sizes
 * @param {number[]} rooms
 * @returns {number[] | null} the bin of each item; null if they do not fit
 */
function pack(sizes, rooms) {
  return sizes.length <= EXACT ? packExactly(sizes, rooms) : packGreedily(sizes, rooms)
}

/** @type {(values: number[]) => number[]} */
const descending = (values) => values.map((_, i) => i).sort((a, b) => values[b] - values[a] || a - b)

/** @type {typeof pack} */
function packGreedily(sizes, rooms) {
  const left = [...rooms]
  const bins = new Array(sizes.length)
  for (const item of descending(sizes)) {
    const bin = left.findIndex((room) => sizes[item] <= room)
    if (bin === -1) return null
    bins[item] = bin
    left[bin] -= sizes[item]
  }
  return bins
}

/**
 * Tries the roomiest bins only: swapping a used bin for a roomier unused one never makes a packing worse.
 *
 * @type {typeof pack}
 */
function packExactly(sizes, rooms) {
  const roomiest = descending(rooms)
  for (let count = Math.min(1, sizes.length); count <= Math.min(sizes.length, rooms.length); count++) {
    const chosen = roomiest.slice(0, count)
    const bins = packInto(
      sizes,
      chosen.map((bin) => rooms[bin]),
    )
    if (bins !== null) return bins.map((bin) => chosen[bin])
  }
  return null
}

/**
 * Finds the packing that leaves the most room in the fullest bin. Searches depth first, the largest items first, and
 * tries equal bins once.
 *
 * @type {typeof pack}
 */
function packInto(sizes, rooms) {
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
      if (sizes[item] > before || tried.has(before)) continue
      tried.add(before)
      bins[item] = bin
      left[bin] -= sizes[item]
      visit(depth + 1, Math.min(room, left[bin]))
      left[bin] = before
    }
  }
  if (sizes.reduce((a, b) => a + b, 0) <= rooms.reduce((a, b) => a + b, 0)) visit(0, Infinity)
  // Assigned in `visit`, which the checker does not follow.
  return /** @type {{ bins: number[] } | null} */ (best)?.bins ?? null
}

module.exports = { pack, EXACT }
