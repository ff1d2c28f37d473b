'use strict'

// The kernel says that memory is short.

const native = require('../core/binding.js')

/** Where `/proc` and `/sys` are read. Tests put a tree of their own here. */
const tree = { root: '/' }

/**
 * Has `told(manager, level, available)` called whenever memory is short, for as long as the native manager is open. Neither a
 * manager nor an event loop is kept by that: `told` must hold neither.
 *
 * @param {object} manager
 * @param {number} handle its native one
 * @param {(manager: object, level: 'some' | 'full', available: number) => void} told
 */
function watch(manager, handle, told) {
  const weak = new WeakRef(manager)
  native.watchPressure(handle, tree.root, (level, available) => {
    const living = weak.deref()
    if (living !== undefined) told(living, level, available)
  })
}

module.exports = { tree, watch }
