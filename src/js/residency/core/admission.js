'use strict'

// Decides which queued models load, which idle ones go for them, and which busy ones have to. Changes nothing but the
// layouts that it makes. Pure: no clock, no I/O.

const { pickVictims } = require('./policy.js')
const { compare, first, isHeld, isIdle, rank } = require('./model.js')

/**
 * @typedef {import('./model.js').Model} Model
 * @typedef {import('./model.js').Request} Request
 * @typedef {import('./layout.js').Layout} Layout
 *
 * @typedef {object} Ground
 * @property {Model[]} models
 * @property {Layout} layout
 * @property {number} now
 * @property {(model: Model) => number} costOf
 * @property {boolean} ordered
 *
 * @typedef {object} Admission
 * @property {{ model: Model, domain: number | null }[]} loads
 * @property {Set<Model>} evictions
 * @property {Map<Model, Request>} going models that have to go, and the request that waits for it
 * @property {Map<Model, Model[]>} claims the ready models that a queued one waits for
 * @property {number} wakeAt when a guard ends that holds a queued model back
 */

/** A loaded model serves requests that come up to so long after the one that waits for its memory. */
const MAX_OVERTAKING_MS = 20_000
/** A model that was just loaded stays for as long as its load took, and at most so long. */
const MAX_GUARD_MS = 30_000

/**
 * Goes through the queue in order. A model without room claims what it will take, and those behind it load only beside
 * these claims: otherwise they would take its room again and again.
 *
 * @param {Ground & { queue: Model[], claims: Map<Model, Model[]> }} ground `claims` are those of the admission before
 * @returns {Admission}
 */
function admit({ queue, claims, models, layout, now, costOf, ordered }) {
  /** @type {Admission} */
  const admission = { loads: [], evictions: new Set(), going: new Map(), claims: new Map(), wakeAt: Infinity }
  const { loads, evictions, going } = admission
  const actual = layout.without([])
  let later = layout.without(models.filter(({ state }) => state === 'unloading'))
  for (const model of queue) {
    const since = first(model)
    const mayLoad = !model.awaits.some(({ state }) => state === 'unloading')
    const domain = mayLoad ? later.place(model, actual.domainsFor(model)) : undefined
    if (domain !== undefined) {
      actual.add(model, domain)
      later.add(model, domain)
      loads.push({ model, domain })
      continue
    }
    if (later.place(model) === undefined) {
      const placed = models.filter((other) => later.placed.has(other) && other.state !== 'queued' && !isHeld(other))
      const ready = placed.filter((other) => other.state === 'ready' && !other.pinned)
      const enough = (/** @type {Model[]} */ gone) => later.without(gone).place(model) !== undefined
      const guardEnd = (/** @type {Model} */ other) =>
        Math.min(other.readyAt + Math.min(other.loadMs, MAX_GUARD_MS), since.at + MAX_OVERTAKING_MS)
      const idle = ready.filter((other) => isIdle(other) && guardEnd(other) <= now)
      const victims = pickVictims(idle, costOf, ordered, enough)
      for (const victim of victims ?? []) evictions.add(victim)
      // A set that busy models are in stays chosen: otherwise one after the other would be closed, and none would end.
      const kept = claims.get(model)?.filter((other) => ready.includes(other))
      const busy = kept !== undefined && enough(kept) ? kept : pickVictims(ready, costOf, ordered, enough)
      if (victims === null && busy !== null) admission.claims.set(model, busy)
      const gone = victims ?? busy ?? placed
      for (const other of victims === null ? ready : []) {
        const end = guardEnd(other)
        if (end > now) admission.wakeAt = Math.min(admission.wakeAt, end)
        else if (!gone.includes(other)) continue
        else if (isFinished(other, since)) evictions.add(other)
        else going.set(other, since)
      }
      later = later.without(gone)
    }
    const claimed = later.place(model)
    if (claimed !== undefined) later.add(model, claimed)
  }
  return admission
}

/**
 * Whether a model that has to go for `since` still serves `request`: one that it was loaded for, one that came before
 * `since`, or not long after it.
 *
 * @param {Model} model
 * @param {Request} request
 * @param {Request} since
 */
function maySee({ readyAt }, request, since) {
  return request.at <= readyAt || compare(request, since) < 0 || rank(request) < rank(since) + MAX_OVERTAKING_MS
}

/** @type {(model: Model, since: Request) => boolean} Whether a model that has to go for `since` serves no more. */
const isFinished = (model, since) =>
  model.leases.size === 0 && !model.waiting.some((request) => maySee(model, request, since))

/**
 * Plans to have models in memory together: the eviction set of least cost, and the places. Null if they can never be.
 *
 * @param {Ground & { wanted: Model[] }} ground
 */
function planTogether({ wanted, models, layout, costOf, ordered }) {
  const ground = layout.without(models.filter(({ state }) => state === 'unloading'))
  const missing = wanted.filter((model) => !ground.placed.has(model))
  /** @type {(gone: Model[]) => Map<Model, number | null> | null} */
  const placesAfter = (gone) => {
    const again = wanted.filter((model) => gone.includes(model))
    return ground.without(gone).assign([...missing, ...again])
  }
  const others = models.filter((model) => ground.placed.has(model) && !wanted.includes(model) && !isHeld(model))
  const enough = (/** @type {Model[]} */ gone) => placesAfter(gone) !== null
  // A wanted model that is in the way is loaded anew elsewhere, if nothing less helps.
  const movable = wanted.filter((model) => ground.placed.has(model) && !isHeld(model))
  const evict = pickVictims(others, costOf, ordered, enough) ??
    pickVictims([...others, ...movable], costOf, ordered, enough)
  if (evict === null) return null
  return { evict, places: placesAfter(evict) ?? new Map() }
}

module.exports = { admit, maySee, planTogether }
