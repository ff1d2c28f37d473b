'use strict'

// Where adapters have their figures from. A metrics library outlives managers and must not keep one alive, and what goes wrong with
// one must not cost a scrape the figures of everything else.

const { invalid, shown } = require('../core/options.js')

/**
 * Reads `{ usage, device, profile }` of a manager; null once it is disposed or collected, or where it cannot say. Libraries ask for one
 * family after the other: all that they ask for in one go is of one reading.
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

/** Manager → its profile without the events, which are many and of no use here. */
const profiles = new WeakMap()

const offerProfile = (manager, profile) => profiles.set(manager, profile)

/** What a manager's profile says, if one is going on. */
function profileOf(manager) {
  // A manager of another copy of the package offered its profile there.
  const profile = profiles.has(manager) ? profiles.get(manager)() : manager.getMemoryProfile?.()
  return profile?.enabled ? profile : null
}

module.exports = { offerProfile, profileOf, readerOf }
