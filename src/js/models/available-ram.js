'use strict'

// The RAM of this machine that models may take: available, within the limits of this process's cgroups.

const { cgroupOf } = require('../devices/doctor/cgroup.js')
const { memoryOf } = require('../devices/doctor/facts.js')
const { makeReader } = require('../devices/doctor/reader.js')

/**
 * Returns null where the kernel does not tell.
 *
 * @param {import('../devices/doctor/reader.js').Reader} [reader]
 */
function availableRam(reader = makeReader()) {
  const available = memoryOf(reader)?.available
  if (available === undefined) return null
  const group = cgroupOf(reader)
  const left = group === undefined ? Infinity : Math.max(0, group.limit - Math.max(0, group.current - group.cache))
  return Math.min(available, left)
}

module.exports = { availableRam }
