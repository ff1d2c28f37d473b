'use strict'

// The idle models that go when bytes are short for another reason than a queued model: memory pressure, a model that
// turned out to be larger, a load that failed. Changes nothing. Pure: no clock, no I/O.

const { isIdle } = require('./model.js')
const { pickVictims } = require('./policy.js')

/**
 * @typedef {import('./model.js').Model} Model
 * @typedef {import('./admission.js').Ground} Ground
 */

/** @type {(models: Model[]) => number} */
const ramOf = (models) => models.reduce((sum, { reserved }) => sum + reserved.ram, 0)

/** @type {(models: Model[]) => Model[]} */
const leaving = (models) => models.filter(({ state }) => state === 'unloading')

/**
 * The idle models that make `enough` true at least cost, or all of them.
 *
 * @param {Ground} ground
 * @param {(gone: Model[]) => boolean} enough
 */
function idleVictims({ models, costOf, ordered }, enough) {
  const idle = models.filter((model) => isIdle(model) && !model.pinned)
  return pickVictims(idle, costOf, ordered, enough) ?? idle
}

/**
 * Those that have so many bytes of RAM. Models that are being unloaded count.
 *
 * @param {Ground} ground
 * @param {number} bytes
 */
function victimsForBytes(ground, bytes) {
  const wanted = bytes - ramOf(leaving(ground.models))
  return idleVictims(ground, (gone) => ramOf(gone) >= wanted)
}

/**
 * Those that go while more is reserved than there is; null once no more is reserved than there is. The layout of
 * `ground` is without what others hold.
 *
 * @param {Ground} ground
 */
function victimsToFit(ground) {
  const then = ground.layout.without(leaving(ground.models))
  if (then.isWithin) return ground.layout.isWithin ? null : []
  return idleVictims(ground, (gone) => then.without(gone).isWithin)
}

/**
 * Those that go for a load that failed, as it may take more than estimated: so many that it would fit twice, and that
 * they have the bytes that it lacked.
 *
 * @param {Ground} ground
 * @param {Model} model
 * @param {number} lacks
 */
function victimsForRetry(ground, model, lacks) {
  const then = ground.layout.without(leaving(ground.models))
  const twice = Object.assign(Object.create(model), { ram: 2 * model.ram, npu: 2 * model.npu })
  const fits = (/** @type {Model[]} */ gone) => then.without(gone).domainsFor(twice).length > 0
  return idleVictims(ground, (gone) => ramOf(gone) >= lacks && fits(gone))
}

module.exports = { victimsForBytes, victimsForRetry, victimsToFit }
