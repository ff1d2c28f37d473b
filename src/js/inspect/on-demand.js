'use strict'

const { systemError } = require('../core/system-errors.js')

/**
 * Opens the inspect socket of `manager`, and returns the function that closes it. Loads the inspector on demand,
 * because it loads the network modules. A tool for inspection must not make the program fail.
 *
 * @param {import('../types/manager.js').MemoryManager} manager
 */
function openInspector(manager) {
  try {
    return require('./inspector.js').openInspector(manager)
  } catch (error) {
    const { message, hint } = systemError('its code cannot be loaded', error) ?? /** @type {any} */ (error)
    process.emitWarning(`No inspect socket: ${message}`, { code: 'RKLLM_INSPECT', detail: hint })
    return () => {}
  }
}

module.exports = { openInspector }
