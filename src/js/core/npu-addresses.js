'use strict'

/** Register blocks of NPUs and of their IOMMUs: RK3588, RK356x, RK3576, RK3562, RV1106. */
const BLOCKS = [
  [0xfdab0000, 0xfdadffff],
  [0xfde40000, 0xfde4ffff],
  [0x27700000, 0x2770ffff],
  [0xff300000, 0xff30ffff],
  [0xff660000, 0xff66ffff],
]

/** @param {string} address in hexadecimal */
function isNpuAddress(address) {
  const at = parseInt(address, 16)
  return BLOCKS.some(([first, last]) => at >= first && at <= last)
}

module.exports = { isNpuAddress }
