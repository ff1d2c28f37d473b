'use strict'

// Computes what models may take: the limits of the machine, of the manager and of the caller, and what others hold.

const native = require('../core/binding.js')
const { cgroupOf } = require('../devices/doctor/cgroup.js')
const { memoryOf } = require('../devices/doctor/facts.js')
const { makeReader } = require('../devices/doctor/reader.js')
const { availableRam } = require('../models/available-ram.js')
const { npuStats } = require('../stats/usage.js')

/**
 * @typedef {import('./core/residency.js').Room} Room
 *
 * @typedef {object} Ours what this residency's models have
 * @property {number} held RAM that is resident for sure: MemAvailable does not have it
 * @property {number} npu bytes of the manager's reservations for them
 * @property {number} taken bytes of all such reservations
 * @property {Map<number, number>} domains the NPU's part of them, by domain
 */

class Machine {
  #handle
  #device
  #limits
  #keepFree

  /**
   * @param {import('../core/manager-handle.js').ManagerHandle} handle
   * @param {import('../types/devices.js').DeviceInfo} device
   * @param {{ limits: { ram?: number, npu?: number }, keepFree: number }} options
   */
  constructor(handle, device, { limits, keepFree }) {
    this.#handle = handle
    this.#device = device
    this.#limits = limits
    this.#keepFree = keepFree
  }

  /** Whether the manager is open, whose figures are read. */
  get isOpen() {
    return !this.#handle.closed
  }

  /**
   * Reads the current figures.
   *
   * @param {Ours} ours
   * @returns {Room}
   */
  room(ours) {
    const handle = this.#handle.value
    const reader = makeReader()
    const ramTotal = Math.min(memoryOf(reader)?.total ?? Infinity, cgroupOf(reader)?.limit ?? Infinity)
    const stats = npuStats(handle, this.#device)
    const totalLimit = native.totalLimit(handle) ?? Infinity
    const { iommu, domainBytes } = this.#device
    const area = !iommu && domainBytes > 0 ? domainBytes : Infinity
    const npuOthers = stats.taken - ours.npu
    const npuLimit = Math.min(this.#limits.npu ?? Infinity, stats.limit ?? Infinity, area)
    const npuLeft = Math.min(
      this.#limits.npu ?? Infinity,
      Math.min(stats.limit ?? Infinity, area) - npuOthers,
    )
    const ramLimit = Math.min(this.#limits.ram ?? Infinity, ramTotal - this.#keepFree, totalLimit)
    const taken = totalLimit === Infinity ? 0 : stats.taken + native.systemStats(handle).counters.taken
    const ramLeft = Math.min(
      (availableRam(reader) ?? Infinity) - this.#keepFree + ours.held,
      totalLimit - (taken - ours.taken),
    )
    const domains = iommu ? stats.domains : []
    return {
      ram: Math.max(0, ramLimit),
      npu: npuLimit,
      domains: domains.map(({ id, total }) => ({ id, limit: total })),
      others: {
        ram: excess(Math.max(0, ramLimit), ramLeft),
        npu: excess(npuLimit, npuLeft),
        domains: new Map(
          domains.map(({ id, used, reservedForOthers }) => [
            id,
            Math.max(0, used + reservedForOthers - (ours.domains.get(id) ?? 0)),
          ]),
        ),
      },
    }
  }
}

/** @type {(limit: number, left: number) => number} Infinite limits leave nothing to others. */
const excess = (limit, left) => (limit === Infinity ? 0 : Math.max(0, limit - left))

module.exports = { Machine }
