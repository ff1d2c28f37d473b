'use strict'

// Reads a manager's figures for the adapters. A metrics library outlives managers and must not keep one alive, and a
// failing manager must not fail a scrape.

const { invalid, formatValue } = require('../core/options.js')
const { queueMicrotask } = require('../core/runtime.js')

/**
 * @typedef {import('../types/manager.js').MemoryManager} MemoryManager
 * @typedef {import('../types/profiling.js').MemoryProfile} MemoryProfile
 * @typedef {import('./family.js').Figures} Figures
 */

/**
 * Returns a function that reads `{ usage, device, profile }` of a manager, or null if it is disposed, collected or
 * failing. Libraries read one family after the other: all reads of one turn share one reading.
 *
 * @param {MemoryManager} manager
 * @returns {() => Figures | null}
 */
function readerOf(manager) {
  if (typeof manager?.getMemoryUsage !== 'function')
    throw invalid(`the manager must be a MemoryManager, not ${formatValue(manager)}`)
  const held = new WeakRef(manager)
  /** @type {Figures | null | undefined} */
  let reading
  return () => {
    if (reading === undefined) {
      reading = read(held.deref())
      queueMicrotask(() => (reading = undefined))
    }
    return reading
  }
}

/**
 * @param {MemoryManager | undefined} manager
 * @returns {Figures | null}
 */
function read(manager) {
  if (manager === undefined || manager.disposed) return null
  try {
    return { usage: manager.getMemoryUsage(), device: manager.device, profile: profileOf(manager) }
  } catch {
    return null
  }
}

/**
 * Manager → a function that returns its profile without the events.
 *
 * @type {WeakMap<MemoryManager, () => MemoryProfile>}
 */
const profiles = new WeakMap()

/** @type {(manager: MemoryManager, profile: () => MemoryProfile) => unknown} */
const offerProfile = (manager, profile) => profiles.set(manager, profile)

/**
 * Returns a manager's profile while profiling; null otherwise.
 *
 * @param {MemoryManager} manager
 */
function profileOf(manager) {
  const offered = profiles.get(manager)
  // A manager of another copy of the package registered its function in that copy.
  const profile = offered === undefined ? manager.getMemoryProfile?.() : offered()
  return profile?.enabled ? profile : null
}

module.exports = { offerProfile, profileOf, readerOf }
