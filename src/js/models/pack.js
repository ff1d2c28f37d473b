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

/** Depth first over the largest items first; bins that are equal so far are tried once. */
function packExactly(sizes, rooms) {
  const order = byFalling(sizes)
  const left = [...rooms]
  const held = rooms.map(() => 0)
  const bins = new Array(sizes.length)
  let best = null

  const headroom = () => Math.min(...left.filter((_, bin) => held[bin] > 0))
  const visit = (depth, used) => {
    if (best !== null && used > best.used) return
    if (depth === order.length) {
      const room = headroom()
      if (best === null || used < best.used || room > best.room) best = { used, room, bins: [...bins] }
      return
    }
    const item = order[depth]
    const tried = new Set()
    for (let bin = 0; bin < rooms.length; bin++) {
      const likeness = `${left[bin]} ${held[bin] > 0}`
      if (sizes[item] > left[bin] || tried.has(likeness)) continue
      tried.add(likeness)
      bins[item] = bin
      left[bin] -= sizes[item]
      held[bin]++
      visit(depth + 1, used + (held[bin] === 1 ? 1 : 0))
      held[bin]--
      left[bin] += sizes[item]
    }
  }
  visit(0, 0)
  return best?.bins ?? null
}

module.exports = { pack, EXACT }
