'use strict'

// Descriptions of memory in JSON, which has no numbers for addresses.

/**
 * Returns a copy whose addresses are strings, as in a .json report: "0x200000000000".
 *
 * @this {Record<string, unknown>}
 */
function toJSON() {
  const copy = { ...this }
  for (const name of ['address', 'deviceAddress']) {
    const address = copy[name]
    if (typeof address === 'bigint') copy[name] = `0x${address.toString(16)}`
  }
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

module.exports = { jsonable }
