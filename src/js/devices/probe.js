'use strict'

const native = require('../core/binding.js')

/**
 * Every device this process can open, best first, then every one it cannot and why.
 */
function probeDevices() {
  return native.probeDevices().map(({ device, ...refusal }) => device ?? refusal)
}

module.exports = { probeDevices }
