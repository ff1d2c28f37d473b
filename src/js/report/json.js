'use strict'

// Writes snapshot and profile as JSON, as snapshot.schema.json describes.

const { hexAddresses } = require('../core/json.js')

/**
 * @type {(snapshot: import('../types/report.js').MemorySnapshot, profile:
 * import('../types/profiling.js').MemoryProfile) => string}
 */
const json = (snapshot, profile) => `${JSON.stringify({ version: 1, snapshot, profile }, hexAddresses)}\n`

module.exports = { json }
