'use strict'

const UNITS = ['KiB', 'MiB', 'GiB', 'TiB']

/**
 * Formats "4 GiB", "1.5 MiB", "1 byte": at most one decimal, rounded down, as `units::format_bytes` in Rust does.
 *
 * @param {number} bytes
 */
function formatBytes(bytes) {
  if (bytes < 1024) return `${Math.floor(bytes)} ${Math.floor(bytes) === 1 ? 'byte' : 'bytes'}`
  let unit = 0
  let scaled = bytes / 1024
  while (scaled >= 1024 && unit < UNITS.length - 1) {
    scaled /= 1024
    unit++
  }
  return `${Math.floor(scaled * 10) / 10} ${UNITS[unit]}`
}

module.exports = { formatBytes }
