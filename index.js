'use strict'

const { MemoryError } = require('./src/js/errors.js')
const { MemoryManager } = require('./src/js/manager.js')
const { probeDevices } = require('./src/js/devices.js')

module.exports = { MemoryManager, MemoryError, probeDevices }
