'use strict'

// Builds the results of `MemoryManager`'s statistics methods from the native part's figures.

const { getHeapStatistics } = require('node:v8')
const native = require('../core/binding.js')
const { formatBytes } = require('../core/format-bytes.js')

/**
 * @typedef {import('../types/stats.js').NPUMemoryStats} NPUMemoryStats
 * @typedef {import('../types/stats.js').SystemMemoryStats} SystemMemoryStats
 * @typedef {import('../types/stats.js').MemoryStats} MemoryStats
 * @typedef {import('../types/stats.js').MemoryUsage} MemoryUsage
 * @typedef {import('../types/stats.js').PoolStats} PoolStats
 * @typedef {import('../types/devices.js').DeviceInfo} DeviceInfo
 */

/**
 * Implements `manager.getNPUMemoryStats`.
 *
 * @param {number} handle
 * @param {DeviceInfo} device
 * @returns {NPUMemoryStats}
 */
function npuStats(handle, { backend, simulated, sramTotal }) {
  const stats = native.npuStats(handle)
  const { counters, lostObjects, lostForGood, lostBytes, slabReserved, slabAllocated, slabWaiting, ...others } = stats
  const { slabLateWrites: lateWrites, slabLost, ...figures } = others
  const lost = { objects: lostObjects, bytes: lostBytes, forGood: lostForGood }
  const slabs = { reserved: slabReserved, allocated: slabAllocated, waiting: slabWaiting, lateWrites, lost: slabLost }
  return { backend, simulated, ...counters, ...figures, sramTotal, lost, slabs }
}

/**
 * Implements `manager.getSystemMemoryStats`.
 *
 * @param {number} handle
 * @returns {SystemMemoryStats}
 */
function systemStats(handle) {
  const { counters, lostMappings, lostBytes, ...figures } = native.systemStats(handle)
  return { ...counters, ...figures, lost: { mappings: lostMappings, bytes: lostBytes } }
}

/**
 * Implements `manager.getMemoryUsage`.
 *
 * @param {number} handle
 * @param {NPUMemoryStats} npu
 * @param {SystemMemoryStats} system
 * @param {MemoryUsage['models']} models of its residencies
 * @returns {MemoryUsage}
 */
function usageOf(handle, npu, system, models) {
  // Not process.memoryUsage(), which opens /proc: that fails when the process is out of descriptors.
  const { used_heap_size: heapUsed, external_memory: external } = getHeapStatistics()
  const gauges = native.processGauges(handle)
  const [openFds, maxFds, maps, maxMaps] = gauges.slice(0, 4).map(known)
  const [, , , , budget, withheld] = gauges
  const pools = /** @type {PoolStats[]} */ (native.poolsStats(handle))
  return {
    npu,
    system,
    total: { taken: npu.taken + system.taken, limit: native.totalLimit(handle) ?? null },
    pools,
    tags: Object.fromEntries(native.tags(handle).map(({ tag, limit, counters }) => [tag, { ...counters, limit }])),
    models,
    pinned: pinnedOf(handle),
    reservations: /** @type {MemoryUsage['reservations']} */ (native.reservations(handle)),
    process: {
      rss: system.rss,
      heapUsed,
      external,
      openFds,
      maxFds,
      maps,
      maxMaps,
      addresses: { budget, withheld },
    },
    fragmentation: fragmentationOf(pools),
  }
}

/** @type {(figure: number) => number | null} A figure of /proc; null where it is not known. */
const known = (figure) => (Number.isNaN(figure) ? null : figure)

/**
 * The figures of pinned blocks.
 *
 * @param {number} handle
 * @returns {import('../types/stats.js').PinnedStats}
 */
function pinnedOf(handle) {
  const [blocks, bytes, droppedBlocks, droppedBytes, orphanedBlocks, orphanedBytes] = native.pinStats(handle)
  return { blocks, bytes, droppedBlocks, droppedBytes, orphanedBlocks, orphanedBytes }
}

/**
 * The fragmentation of all pools, weighted by their free bytes; 0 without any.
 *
 * @param {Array<{ free: number, fragmentation: number }>} pools
 */
function fragmentationOf(pools) {
  const free = pools.reduce((sum, pool) => sum + pool.free, 0)
  return free === 0 ? 0 : pools.reduce((sum, pool) => sum + pool.fragmentation * pool.free, 0) / free
}

/**
 * Shows a manager in `util.inspect`; calls `stats` only if they are shown at this depth.
 *
 * @param {{ device: DeviceInfo, disposed: boolean }} manager
 * @param {number} depth
 * @param {import('node:util').InspectOptionsStylized} options
 * @param {() => MemoryStats} stats
 */
function inspectManager({ device, disposed }, depth, options, stats) {
  const name = options.stylize('MemoryManager', 'special')
  const { backend, simulated, soc, driverVersion, path } = device
  const where = simulated ? `simulated ${soc}` : [backend, soc, driverVersion, path].filter(Boolean).join(' ')
  if (disposed) return `${name} (${where}, disposed)`
  if (depth < 0) return `${name} (${where})`
  const { npuUsed, npuTotal, npuPeak, systemUsed, systemTotal, systemPeak, liveAllocations } = stats()
  /** @type {(used: number, total: number, peak: number) => string} */
  const line = (used, total, peak) =>
    options.stylize(`${formatBytes(used)} of ${formatBytes(total)}, peak ${formatBytes(peak)}`, 'number')
  return [
    `${name} (${where}) {`,
    `  npu:    ${line(npuUsed, npuTotal, npuPeak)}`,
    `  system: ${line(systemUsed, systemTotal, systemPeak)}`,
    `  live:   ${options.stylize(String(liveAllocations), 'number')}`,
    '}',
  ].join('\n')
}

module.exports = { inspectManager, npuStats, systemStats, usageOf }
