'use strict'

const native = require('../core/binding.js')

/** Lists the devices that this process can open, best first, then those that it cannot, with the reason. */
function probeDevices() {
  return native.probeDevices().map(({ device, ...refusal }) => device ?? refusal)
}

module.exports = { probeDevices }
