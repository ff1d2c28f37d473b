'use strict'

// Memory pressure, as the kernel reports it.

const native = require('../core/binding.js')

/** The root of the `/proc` and `/sys` that are read. Tests replace it. */
const tree = { root: '/' }

/**
 * @typedef {object} PressureHost the parts of a manager that answer memory pressure
 * @property {import('../core/manager-handle.js').ManagerHandle} handle
 * @property {import('../core/manager-events.js').ManagerEvents} events
 * @property {import('./reclaimer.js').Reclaimer} reclaimer
 */

/**
 * Reclaims memory at each report of memory pressure while the native manager is open, and emits 'pressure'. Keeps
 * neither the manager nor an event loop alive.
 *
 * @param {PressureHost} host
 * @param {number} handle of the native manager
 */
function watch(host, handle) {
  const weak = new WeakRef(host)
  native.watchPressure(handle, tree.root, (level, available) => {
    const alive = weak.deref()
    if (alive === undefined || alive.handle.closed) return
    alive.reclaimer.onPressure((released) => alive.events.emit('pressure', { level, available, released }))
  })
}

module.exports = { tree, watch }
