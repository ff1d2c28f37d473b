'use strict'

// The change of the whole machine's figures over the life of a model. Other programs change them too, so that no
// verdict follows from them.

const { makeReader } = require('../devices/doctor/reader.js')
const { driverMemory, machineMemory } = require('../models/process-memory.js')

/** @typedef {import('../types/residency.js').MachineChange} MachineChange */

/**
 * Reads the figures.
 *
 * @param {import('../devices/doctor/reader.js').Reader} [reader]
 */
function readMachine(reader = makeReader()) {
  return { ...machineMemory(reader), ...driverMemory(reader) }
}

/**
 * Returns the bytes that are taken now and were not before.
 *
 * @param {ReturnType<typeof readMachine>} before
 * @param {ReturnType<typeof readMachine>} after
 * @returns {MachineChange}
 */
function machineChange(before, after) {
  /** @type {(from: number | null, to: number | null) => number | null} */
  const rise = (from, to) => (from === null || to === null ? null : to - from)
  return {
    availableDrop: rise(after.available, before.available),
    cma: rise(before.cmaUsed, after.cmaUsed),
    sram: rise(before.sramUsed, after.sramUsed),
    heap: rise(before.heapUsed, after.heapUsed),
  }
}

module.exports = { machineChange, readMachine }
