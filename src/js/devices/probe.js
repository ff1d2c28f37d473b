'use strict'

const native = require('../core/binding.js')

/**
 * @typedef {import('../types/devices.js').DeviceInfo} DeviceInfo
 * @typedef {import('../types/devices.js').DeviceRefusal} DeviceRefusal
 */

/**
 * Lists the devices that this process can open, best first, then those that it cannot, with the reason.
 *
 * @returns {Array<DeviceInfo | DeviceRefusal>}
 */
function probeDevices() {
  const found = /** @type {Array<DeviceRefusal & { device?: DeviceInfo }>} */ (native.probeDevices())
  return found.map(({ device, ...refusal }) => device ?? { ...refusal, refused: true })
}

module.exports = { probeDevices }
