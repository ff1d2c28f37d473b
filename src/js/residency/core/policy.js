'use strict'

// Values loaded models, so that the least valuable ones are evicted first. Pure: no clock, no I/O.

/**
 * @typedef {object} Valued
 * @property {number} bytes
 * @property {number} loadMs
 * @property {number} priority
 * @property {number} uses decayed count of requests
 * @property {number} usedAt
 * @property {number} base the inflation at the last use
 */

/** Requests count half after so many milliseconds. */
const HALF_LIFE_MS = 600_000

/**
 * Records a use of a model.
 *
 * @param {Valued} model
 * @param {number} now
 * @param {number} inflation
 */
function recordUse(model, now, inflation) {
  age(model, now, inflation)
  model.uses += 1
}

/**
 * Brings the value of a model up to date, without a use.
 *
 * @param {Valued} model
 * @param {number} now
 * @param {number} inflation
 */
function age(model, now, inflation) {
  model.uses = usesAt(model, now)
  model.usedAt = now
  model.base = inflation
}

/** @type {(model: Valued, now: number) => number} */
const usesAt = (model, now) => model.uses * 2 ** (-Math.max(0, now - model.usedAt) / HALF_LIFE_MS)

/** @type {Record<'cost' | 'lru', (model: Valued, now: number) => number>} */
const VALUES = {
  // GreedyDual-Size-Frequency: load time saved a byte. The inflation makes models age that are not used.
  cost: (model, now) => model.base + (usesAt(model, now) * model.loadMs) / Math.max(1, model.bytes),
  lru: (model) => model.usedAt,
}

/**
 * Picks the models to evict: the least valuable ones that make `enough` true. Leaves out those that turn out not to be
 * needed, the most valuable first. Null if all of them are not enough.
 *
 * @template {Valued} M
 * @param {M[]} candidates
 * @param {(model: M) => number} valueOf
 * @param {(evicted: M[]) => boolean} enough
 * @returns {M[] | null}
 */
function pickVictims(candidates, valueOf, enough) {
  const sorted = [...candidates].sort((a, b) => a.priority - b.priority || valueOf(a) - valueOf(b))
  /** @type {M[]} */
  let picked = []
  for (const model of sorted) {
    if (enough(picked)) break
    picked.push(model)
  }
  if (!enough(picked)) return null
  for (const model of [...picked].reverse()) {
    const without = picked.filter((other) => other !== model)
    if (enough(without)) picked = without
  }
  return picked
}

module.exports = { VALUES, age, pickVictims, recordUse }
