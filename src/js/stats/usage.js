'use strict'

// The figures that `MemoryManager` shows, out of the native part's.

const { inspect } = require('node:util')
const { getHeapStatistics } = require('node:v8')
const native = require('../core/binding.js')
const { human } = require('../core/format-bytes.js')

/** What `getNPUMemoryStats` says. */
function npuStats(handle, { backend, simulated, sramTotal }) {
  const { counters, lostObjects, lostBytes, slabReserved, slabAllocated, slabLateWrites, ...figures } = native.npuStats(handle)
  const lost = { objects: lostObjects, bytes: lostBytes }
  const slabs = { reserved: slabReserved, allocated: slabAllocated, lateWrites: slabLateWrites }
  return { backend, simulated, ...counters, ...figures, sramTotal, lost, slabs }
}

/** What `getSystemMemoryStats` says. */
function systemStats(handle) {
  const { counters, ...figures } = native.systemStats(handle)
  return { ...counters, ...figures }
}

/** The rest of what `getMemoryUsage` says. */
function usageOf(handle, npu, system) {
  // Not process.memoryUsage(): it opens /proc, which it cannot when the process is out of descriptors.
  const { used_heap_size: heapUsed, external_memory: external } = getHeapStatistics()
  const [openFds, maxFds, maps, maxMaps] = native.processGauges(handle)
  const pools = native.poolsStats(handle)
  return {
    npu,
    system,
    pools,
    tags: Object.fromEntries(native.tags(handle).map(({ tag, counters }) => [tag, counters])),
    reservations: native.reservations(handle),
    process: {
      rss: system.rss,
      heapUsed,
      external,
      // Where /proc is not mounted these are not known, and not a number.
      openFds,
      maxFds,
      maps,
      maxMaps,
    },
    fragmentation: fragmentationOf(pools),
  }
}

/** 1 - largest free / free over all pools, weighted by what is free in each; 0 when nothing is. */
function fragmentationOf(pools) {
  const free = pools.reduce((sum, pool) => sum + pool.free, 0)
  return free === 0 ? 0 : pools.reduce((sum, pool) => sum + pool.fragmentation * pool.free, 0) / free
}

/** How `util.inspect` shows a manager; `stats` is called if there is room for them. */
function inspected({ device, disposed }, depth, options, stats) {
  const name = options.stylize('MemoryManager', 'special')
  const { backend, simulated, soc, driverVersion, path } = device
  const where = simulated ? `simulated ${soc}` : [backend, soc, driverVersion, path].filter(Boolean).join(' ')
  if (disposed) return `${name} (${where}, disposed)`
  if (depth < 0) return `${name} (${where})`
  const { npuUsed, npuTotal, npuPeak, systemUsed, systemTotal, systemPeak, liveAllocations } = stats()
  const line = (used, total, peak) => options.stylize(`${human(used)} of ${human(total)}, peak ${human(peak)}`, 'number')
  return [
    `${name} (${where}) {`,
    `  npu:    ${line(npuUsed, npuTotal, npuPeak)}`,
    `  system: ${line(systemUsed, systemTotal, systemPeak)}`,
    `  live:   ${options.stylize(String(liveAllocations), 'number')}`,
    '}',
  ].join('\n')
}

/** What an object that only inherits shows. */
const inspectedHeir = (options) => inspect(Object.create(null), options)

module.exports = { inspected, inspectedHeir, npuStats, systemStats, usageOf }
