'use strict'

// Memory pressure, as the kernel reports it.

const native = require('../core/binding.js')

/** The root of the `/proc` and `/sys` that are read. Tests replace it. */
const tree = { root: '/' }

/**
 * Calls `onPressure(host, level, available)` at each report of memory pressure while the native manager is open. This
 * keeps neither the host nor an event loop alive, so `onPressure` must hold neither.
 *
 * @template {object} Host
 * @param {Host} host
 * @param {number} handle of the native manager
 * @param {(host: Host, level: 'some' | 'full', available: number) => void} onPressure
 */
function watch(host, handle, onPressure) {
  const weak = new WeakRef(host)
  native.watchPressure(handle, tree.root, (level, available) => {
    const alive = weak.deref()
    if (alive !== undefined) onPressure(alive, /** @type {'some' | 'full'} */ (level), available)
  })
}

module.exports = { tree, watch }
