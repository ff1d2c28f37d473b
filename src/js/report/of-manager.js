'use strict'

// The figures of a manager for a report. The native part lists them on another thread, and this file makes objects of
// them in turns of the event loop.

const native = require('../core/binding.js')
const { check } = require('../core/options.js')
const { dateNow } = require('../core/runtime.js')
const { snapshotInTurns } = require('../profiling/profiling.js')
const { writeDiff, writeReport } = require('./index.js')

/**
 * @typedef {import('../types/manager.js').MemoryManager} MemoryManager
 * @typedef {import('../core/async-tasks.js').AsyncTasks} AsyncTasks
 * @typedef {import('../core/manager-handle.js').ManagerHandle} ManagerHandle
 * @typedef {import('../profiling/profiling.js').Profiling} Profiling
 * @typedef {import('./index.js').Figures} Figures
 * @typedef {import('./index.js').Need} Need
 */

/**
 * @param {MemoryManager} manager
 * @param {{ handle: ManagerHandle, tasks: AsyncTasks, profiling: Profiling }} host
 * @returns {(needs: Need[]) => Promise<Figures>}
 */
const figuresOf = (manager, host) => async (needs) => {
  /** @type {Partial<Figures>} */
  const figures = {}
  if (needs.includes('metrics')) figures.metrics = manager.metrics({ format: 'prometheus' })
  if (needs.includes('usage')) figures.usage = manager.getMemoryUsage()
  const [withSnapshot, withProfile] = [needs.includes('snapshot'), needs.includes('profile')]
  if (withSnapshot || withProfile) {
    const moment = { takenAt: dateNow(), stats: manager.getMemoryStats() }
    /** @type {import('../native.js').ReportData} */
    const { snapshot, profile } = await host.tasks.run(() =>
      native.reportData(host.handle.value, withSnapshot, withProfile),
    )
    if (snapshot != null) figures.snapshot = await snapshotInTurns(snapshot, manager.device, moment)
    if (withProfile) figures.profile = await host.profiling.profileInTurns(profile)
  }
  return /** @type {Figures} */ (figures)
}

/** `writeDiff` checks the snapshot. */
const reportOptions = { before: (/** @type {string} */ _name, /** @type {unknown} */ value) => value }

/**
 * Implements `manager.writeReport`.
 *
 * @param {MemoryManager} manager
 * @param {Parameters<typeof figuresOf>[1]} host
 * @param {string} path
 * @param {unknown} options
 */
async function writeManagerReport(manager, host, path, options) {
  const { before } = check('writeReport', options, reportOptions)
  const figures = figuresOf(manager, host)
  await (before === undefined ? writeReport(path, figures) : writeDiff(path, before, figures))
}

module.exports = { writeManagerReport }
