'use strict'

// Writes snapshot and profile as JSON, as snapshot.schema.json describes.

/**
 * A JSON replacer: addresses exceed JSON's numbers and become strings, "0x200000000000".
 *
 * @param {string} _key
 * @param {unknown} value
 */
const plain = (_key, value) => (typeof value === 'bigint' ? `0x${value.toString(16)}` : value)

/**
 * @type {(snapshot: import('../types/report.js').MemorySnapshot, profile:
 * import('../types/profiling.js').MemoryProfile) => string}
 */
const json = (snapshot, profile) => `${JSON.stringify({ version: 1, snapshot, profile }, plain)}\n`

module.exports = { json, plain }
