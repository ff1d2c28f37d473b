'use strict'

/**
 * Formats "4 GiB", "1.5 MiB", "1 byte": at most one decimal, rounded down, as `units::format_bytes` in Rust does.
 * The report's page takes the text of this function, which therefore uses nothing outside it.
 *
 * @param {number} bytes
 */
function formatBytes(bytes) {
  if (bytes < 1024) return `${Math.floor(bytes)} ${Math.floor(bytes) === 1 ? 'byte' : 'bytes'}`
  const units = ['KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  let scaled = bytes / 1024
  while (scaled >= 1024 && unit < units.length - 1) {
    scaled /= 1024
    unit++
  }
  return `${Math.floor(scaled * 10) / 10} ${units[unit]}`
}

module.exports = { formatBytes }
