'use strict'

// Which bin each item goes to: pure numbers.
//
// Up to EXACT items the answer is the best there is: the fewest bins that were empty of our items, and of those the one whose
// fullest bin has most room left. Above, first fit of the largest first, which never uses more than 11/9 of the fewest bins plus one
// where all bins are alike (Dósa 2007).

const EXACT = 8

/** @returns {number[] | null} the bin of each item, or null where they do not fit */
function pack(sizes, rooms) {
  return sizes.length <= EXACT ? packExactly(sizes, rooms) : packGreedily(sizes, rooms)
}

const byFalling = (values) => values.map((_, i) => i).sort((a, b) => values[b] - values[a] || a - b)

function packGreedily(sizes, rooms) {
  const left = [...rooms]
  const bins = new Array(sizes.length)
  for (const item of byFalling(sizes)) {
    const bin = left.findIndex((room) => sizes[item] <= room)
    if (bin === -1) return null
    bins[item] = bin
    left[bin] -= sizes[item]
  }
  return bins
}

/**
 * The fewest bins are looked for among the roomiest: a plan that leaves out a roomier bin than one it uses can only gain by swapping
 * the two.
 */
function packExactly(sizes, rooms) {
  const roomiest = byFalling(rooms)
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

/** The plan that leaves most room in the fullest bin: depth first, the largest items first; bins that are alike are tried once. */
function packInto(sizes, rooms) {
  const order = byFalling(sizes)
  const left = [...rooms]
  const bins = new Array(sizes.length)
  let best = null

  const visit = (depth, room) => {
    // Room in the fullest bin only shrinks from here on.
    if (best !== null && room <= best.room) return
    if (depth === order.length) {
      best = { room, bins: [...bins] }
      return
    }
    const item = order[depth]
    const tried = new Set()
    for (const bin of byFalling(left)) {
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
  return best?.bins ?? null
}

module.exports = { pack, EXACT }
