'use strict'

/**
 * A replacer for `JSON.stringify`: addresses exceed JSON's numbers and become strings, "0x200000000000".
 *
 * @param {string} _key
 * @param {unknown} value
 */
const hexAddresses = (_key, value) => (typeof value === 'bigint' ? `0x${value.toString(16)}` : value)

module.exports = { hexAddresses }
