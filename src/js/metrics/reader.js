'use strict'

// Reads a manager's figures for the adapters. A metrics library outlives managers and must not keep one alive, and a
// failing manager must not fail a scrape.

const { invalid, shown } = require('../core/options.js')

/**
 * Returns a function that reads `{ usage, device, profile }` of a manager, or null if it is disposed, collected or
 * failing. Libraries read one family after the other: all reads of one turn share one reading.
 */
function readerOf(manager) {
  if (typeof manager?.getMemoryUsage !== 'function')
    throw invalid(`the manager must be a MemoryManager, not ${shown(manager)}`)
  const held = new WeakRef(manager)
  let reading
  return () => {
    if (reading === undefined) {
      reading = read(held.deref())
      queueMicrotask(() => (reading = undefined))
    }
    return reading
  }
}

function read(manager) {
  if (manager === undefined || manager.disposed) return null
  try {
    return { usage: manager.getMemoryUsage(), device: manager.device, profile: profileOf(manager) }
  } catch {
    return null
  }
}

/** Manager → a function that returns its profile without the events. */
const profiles = new WeakMap()

const offerProfile = (manager, profile) => profiles.set(manager, profile)

/** Returns a manager's profile while profiling; null otherwise. */
function profileOf(manager) {
  // A manager of another copy of the package registered its function in that copy.
  const profile = profiles.has(manager) ? profiles.get(manager)() : manager.getMemoryProfile?.()
  return profile?.enabled ? profile : null
}

module.exports = { offerProfile, profileOf, readerOf }
