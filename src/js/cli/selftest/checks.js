'use strict'

// The checks of `rkllm-memory selftest`. Each has a manager of its own, and must leave nothing behind.

const { readdirSync, readlinkSync } = require('node:fs')
const memory = require('./memory-checks.js')
const pools = require('./pool-checks.js')
const { expect } = require('./pattern.js')
const { soak } = require('./soak.js')
const sync = require('./sync-checks.js')
const { now, setTimeout } = require('../../core/runtime.js')

const MiB = 2 ** 20

/**
 * @typedef {import('../../types/manager.js').MemoryManager} MemoryManager
 * @typedef {import('../../types/devices.js').DeviceInfo} DeviceInfo
 * @typedef {import('../../../../index.js')} Library
 *
 * @typedef {object} Context what a check gets
 * @property {MemoryManager} manager
 * @property {DeviceInfo} device
 * @property {Library} library
 * @property {number} largest bytes that a check may hold at once
 * @property {number} seconds of the soak
 * @property {(error: any) => never} unsupported ends a check for which the device has no support
 *
 * @typedef {(context: Context) => Figures | Promise<Figures>} Run
 * @typedef {Record<string, unknown>} Figures
 *
 * @typedef {object} Result
 * @property {string} id
 * @property {string} title
 * @property {'passed' | 'failed' | 'unsupported' | 'not run'} status
 * @property {number} [ms]
 * @property {Figures} [figures]
 * @property {string} [message] of the error
 * @property {string} [code] of the error
 * @property {string} [stack] of an error that no check expects
 */

/** @type {Array<{ id: string, title: string, run: Run }>} */
const CHECKS = [
  { id: 'sizes', title: 'buffers of many sizes are zeroed, and their bytes their own', run: memory.sizes },
  { id: 'many', title: 'many live buffers, freed in a random order', run: memory.many },
  { id: 'options', title: "the device's kinds of memory", run: memory.options },
  { id: 'refusals', title: 'impossible requests are refused, and change nothing', run: memory.refusals },
  { id: 'async', title: 'allocations and syncs off the main thread', run: memory.twins },
  { id: 'dma-buf', title: 'a dma-buf shows the same bytes to both sides', run: memory.dmaBufs },
  { id: 'sync', title: 'synced bytes survive an invalidation of the caches', run: sync.wholeBuffers },
  { id: 'sync-ranges', title: 'the same, for ranges of any alignment', run: sync.ranges },
  { id: 'sync-neighbours', title: "a sync of one slice keeps its neighbours' bytes", run: sync.neighbours },
  { id: 'sync-dropped', title: 'lines that were not synced are dropped, or kept, as a whole', run: sync.droppedLines },
  { id: 'uncached', title: 'syncs leave uncached memory alone', run: sync.uncached },
  { id: 'pools', title: 'pools: a random program, with exact figures', run: pools.pools },
  { id: 'compaction', title: 'compaction moves blocks with their bytes', run: pools.compaction },
  { id: 'limits', title: 'limits refuse the first allocation beyond them', run: pools.limits },
  { id: 'soak', title: 'a small soak', run: soak },
]

/** Ends a check: the device has no support. */
class Unsupported extends Error {}

/** Descriptors of devices and of memory. Others belong to the runtime, which opens them at their first use. */
const OWN = /^\/memfd:|dmabuf|^\/dev\/(dri|accel|dma_heap|rk_dma_heap|rknpu)/

/** Returns the number of this process's descriptors of devices and of memory. */
function openDescriptors() {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return OWN.test(readlinkSync(`/proc/self/fd/${fd}`))
    } catch {
      // The descriptor of the listing itself.
      return false
    }
  }).length
}

/** Waits for the thread that closes descriptors, at most a second. Returns how many there are more than `before`. */
async function leftDescriptors(/** @type {number} */ before) {
  for (let wait = 0; wait < 100 && openDescriptors() > before; wait++) await new Promise((go) => setTimeout(go, 10))
  return openDescriptors() - before
}

/**
 * Runs one check. An error is a result, not a rejection.
 *
 * @param {{ id: string, title: string, run: Run }} check
 * @param {Library} library
 * @param {{ backend: string, device?: string, seconds: number, simulated?: object }} options
 * @returns {Promise<Result>}
 */
async function runCheck({ id, title, run }, library, { seconds, ...opening }) {
  const began = now()
  /** @param {Partial<Result>} rest */
  const result = (rest) => /** @type {Result} */ ({ id, title, ms: Math.round(now() - began), ...rest })
  const descriptors = openDescriptors()
  /** @type {MemoryManager | undefined} */
  let manager
  try {
    manager = new library.MemoryManager(/** @type {any} */ (opening))
    const { device } = manager
    const figures = await run({
      manager, device, library, seconds,
      // Without an IOMMU all memory comes from a small area, which other programs use too.
      largest: device.iommu || device.domainBytes === 0 ? 32 * MiB : Math.min(32 * MiB, device.domainBytes / 8),
      unsupported(error) {
        throw new Unsupported(error.message, { cause: error })
      },
    })
    const { npu, system } = manager.getMemoryUsage()
    const left = npu.liveAllocations + system.liveAllocations
    expect(left === 0, `the check freed all its buffers, and ${left} are left`)
    await manager.disposeAsync()
    const open = await leftDescriptors(descriptors)
    expect(open <= 0, `${open} descriptors of memory are left open after the end of the manager`)
    return result({ status: 'passed', figures })
  } catch (error) {
    const { message, code, stack, name } = /** @type {Error & { code?: string }} */ (error)
    if (error instanceof Unsupported) {
      return result({ status: 'unsupported', message })
    }
    const unexpected = code === undefined && name !== 'Error' ? { stack } : {}
    return result({ status: 'failed', message, ...(code === undefined ? {} : { code }), ...unexpected })
  } finally {
    manager?.dispose()
  }
}

module.exports = { CHECKS, runCheck }
