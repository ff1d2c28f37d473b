'use strict'

// Memory pressure, as the kernel reports it.

const native = require('../core/binding.js')
const { setImmediate } = require('../core/runtime.js')

/** The root of the `/proc` and `/sys` that are read. Tests replace it. */
const tree = { root: '/' }

/**
 * @typedef {object} PressureHost the parts of a manager that answer memory pressure
 * @property {import('../core/manager-handle.js').ManagerHandle} handle
 * @property {import('../core/manager-events.js').ManagerEvents} events
 * @property {import('./reclaimer.js').Reclaimer} reclaimer
 * @property {Set<{ pressure(level: string, available: number): void }>} residencies
 */

/**
 * Reclaims memory at each report of memory pressure while the native manager is open, and emits 'pressure'. Keeps
 * neither the manager nor an event loop alive.
 *
 * Starts in the next turn of the event loop, which a report needs in any case: the thread and its files cost more than
 * the rest of opening a device.
 *
 * @param {PressureHost} host
 * @param {number} handle of the native manager
 */
function watch(host, handle) {
  const { root } = tree
  const weak = new WeakRef(host)
  const isOpen = () => weak.deref()?.handle.closed === false
  /** @type {(level: string, available: number) => void} */
  const report = (level, available) => {
    const alive = weak.deref()
    if (alive === undefined || alive.handle.closed) return
    // Idle models can be loaded again: they go before anything of the program's.
    for (const residency of alive.residencies) residency.pressure(level, available)
    alive.reclaimer.onPressure((released) => alive.events.emit('pressure', { level, available, released }))
  }
  setImmediate(() => {
    try {
      if (isOpen()) native.watchPressure(handle, root, report)
    } catch {
      // The environment is ending, or has no memory for it: there are no reports.
    }
  }).unref()
}

module.exports = { tree, watch }
