'use strict'

// The RAM of this machine that models may take: available, within the limits of this process's cgroups.

const { cgroupOf } = require('../devices/doctor/cgroup.js')
const { makeReader } = require('../devices/doctor/reader.js')

/**
 * Returns null where the kernel does not tell.
 *
 * @param {import('../devices/doctor/reader.js').Reader} [reader]
 */
function availableRam(reader = makeReader()) {
  const [, kib] = /^MemAvailable:\s+(\d+) kB$/m.exec(reader.text('/proc/meminfo') ?? '') ?? []
  if (kib === undefined) return null
  const group = cgroupOf(reader)
  const left = group === undefined ? Infinity : Math.max(0, group.limit - Math.max(0, group.current - group.cache))
  return Math.min(Number(kib) * 1024, left)
}

module.exports = { availableRam }
