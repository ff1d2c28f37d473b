'use strict'

// Where adapters have their figures from. A metrics library outlives managers and must not keep one alive, and what goes wrong with
// one must not cost a scrape the figures of everything else.

const { invalid, shown } = require('../options.js')

/**
 * Reads `{ usage, device, profile }` of a manager; null once it is disposed or collected, or where it cannot say. Libraries ask for one
 * family after the other: all that they ask for in one go is of one reading.
 */
function readerOf(manager) {
  if (typeof manager?.getMemoryUsage !== 'function') throw invalid(`the manager must be a MemoryManager, not ${shown(manager)}`)
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

/** What a manager's profile says, if one is going on. */
function profileOf(manager) {
  const profile = typeof manager.getMemoryProfile === 'function' ? manager.getMemoryProfile() : null
  return profile?.enabled ? profile : null
}

module.exports = { profileOf, readerOf }
