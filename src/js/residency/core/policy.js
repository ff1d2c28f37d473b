'use strict'

// Costs of evictions, and the models whose eviction costs least. Pure: no clock, no I/O.

/**
 * @typedef {object} Valued
 * @property {number} bytes
 * @property {number} loadMs
 * @property {number} priority
 * @property {number} uses decayed count of requests
 * @property {number} usedAt
 */

/**
 * @template M
 * @typedef {object} Policy
 * @property {(model: M, now: number) => number} costOf
 * @property {boolean} ordered whether the order of costs decides, and their sum does not
 */

/** Requests count half after so many milliseconds. */
const HALF_LIFE_MS = 300_000
/** A model that was never used is worth so many uses: of two such models the one that loads faster goes. */
const UNUSED = 0.01
/** More candidates than these are taken in order of cost by byte: the exact search tries every subset. */
const MAX_EXACT = 12
/** A priority's cost exceeds the sum of all lower ones. */
const PRIORITY_FACTOR = 2 ** 20

/**
 * Records a use of a model.
 *
 * @param {Valued} model
 * @param {number} now
 */
function recordUse(model, now) {
  model.uses = usesAt(model, now) + 1
  model.usedAt = now
}

/** @type {(model: Valued, now: number) => number} */
const usesAt = (model, now) => model.uses * 2 ** (-Math.max(0, now - model.usedAt) / HALF_LIFE_MS)

/** @type {Record<'cost' | 'lru', Policy<Valued>>} */
const POLICIES = {
  // The load time that an eviction is expected to cost.
  cost: { costOf: (model, now) => (usesAt(model, now) + UNUSED) * model.loadMs, ordered: false },
  lru: { costOf: (model) => model.usedAt, ordered: true },
}

/**
 * Picks the models to evict that make `enough` true: those of the lowest priorities, of these the set that costs least.
 * Null if all of them are not enough.
 *
 * @template {Valued} M
 * @param {M[]} candidates
 * @param {(model: M) => number} costOf
 * @param {boolean} ordered
 * @param {(evicted: M[]) => boolean} enough true for a set if it is for a part of it
 * @returns {M[] | null}
 */
function pickVictims(candidates, costOf, ordered, enough) {
  const priorities = [...new Set(candidates.map(({ priority }) => priority))].sort((a, b) => a - b)
  /** @type {M[]} */
  let usable = []
  if (enough(usable)) return usable
  for (const priority of priorities) {
    usable = candidates.filter((model) => model.priority <= priority)
    if (!enough(usable)) continue
    const weightOf = (/** @type {M} */ model) => PRIORITY_FACTOR ** Math.max(0, priorities.indexOf(model.priority))
    const costs = usable.map((model) => ({ model, cost: costOf(model), weight: weightOf(model) }))
    if (ordered || usable.length > MAX_EXACT) {
      const unitOf = (/** @type {M} */ model) => (ordered ? 1 : Math.max(1, model.bytes))
      return inOrder(costs.map(({ model, cost }) => ({ model, cost: cost / unitOf(model) })), enough)
    }
    return cheapest(costs.map(({ model, cost, weight }) => ({ model, cost: cost * weight })), enough)
  }
  return null
}

/**
 * Takes the cheapest first, and then leaves out those that turn out not to be needed, the most expensive first.
 *
 * @template {Valued} M
 * @param {{ model: M, cost: number }[]} costs
 * @param {(evicted: M[]) => boolean} enough
 */
function inOrder(costs, enough) {
  const sorted = [...costs].sort((a, b) => a.model.priority - b.model.priority || a.cost - b.cost)
  /** @type {M[]} */
  let picked = []
  for (const { model } of sorted) {
    if (enough(picked)) break
    picked.push(model)
  }
  for (const model of [...picked].reverse()) {
    const without = picked.filter((other) => other !== model)
    if (enough(without)) picked = without
  }
  return picked
}

/**
 * Searches all subsets, and leaves out branches that cost more than the best one found.
 *
 * @template {Valued} M
 * @param {{ model: M, cost: number }[]} costs
 * @param {(evicted: M[]) => boolean} enough
 */
function cheapest(costs, enough) {
  const sorted = [...costs].sort((a, b) => b.cost - a.cost)
  let best = sorted.map(({ model }) => model)
  let least = Infinity
  /** @type {(kept: number, gone: M[], cost: number) => void} `gone` and all from `kept` on are enough. */
  const search = (kept, gone, cost) => {
    if (cost >= least) return
    if (kept === sorted.length) {
      best = gone
      least = cost
      return
    }
    const { model, cost: own } = sorted[kept]
    const rest = sorted.slice(kept + 1).map((each) => each.model)
    // Keeps the expensive ones first, if those left are enough.
    if (enough([...gone, ...rest])) search(kept + 1, gone, cost)
    search(kept + 1, [...gone, model], cost + own)
  }
  search(0, [], 0)
  return best
}

module.exports = { POLICIES, pickVictims, recordUse }
