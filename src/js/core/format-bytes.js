'use strict'

const UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']

/** "4 GiB", "1.5 MiB", "12 bytes": at most one decimal, never rounded up to a figure that is not there. */
function human(bytes) {
  let unit = 0
  let scaled = bytes
  while (scaled >= 1024 && unit < UNITS.length - 1) {
    scaled /= 1024
    unit++
  }
  return `${Math.floor(scaled * 10) / 10} ${UNITS[unit]}`
}

module.exports = { human }
