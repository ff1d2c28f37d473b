'use strict'

// Addresses in JSON, which has no numbers for them.

/**
 * Formats an address: "0x200000000000".
 *
 * @param {bigint} address
 */
const hexAddress = (address) => `0x${address.toString(16)}`

/**
 * A replacer for `JSON.stringify`: bigints, which are addresses, become hexadecimal strings.
 *
 * @param {string} _key
 * @param {unknown} value
 */
const hexAddresses = (_key, value) => (typeof value === 'bigint' ? hexAddress(value) : value)

/**
 * Returns a copy whose addresses are strings, as in a .json report.
 *
 * @this {Record<string, unknown>}
 */
function toJSON() {
  const copy = { ...this }
  for (const name of ['address', 'deviceAddress']) copy[name] = hexAddresses(name, copy[name])
  return copy
}

// Not enumerable: a description is compared, printed and cloned without it.
const property = { value: toJSON, configurable: true, writable: true }

/**
 * Lets JSON.stringify take a description that has addresses. Returns the same object.
 *
 * @template {object} T
 * @param {T} info
 * @returns {T}
 */
const jsonable = (info) => Object.defineProperty(info, 'toJSON', property)

module.exports = { hexAddresses, jsonable }
