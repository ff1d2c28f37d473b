'use strict'

// Implements `diagnose`: the checks of `rkllm-memory doctor`, as data.

const { existsSync } = require('node:fs')
const { memoryError } = require('../core/errors.js')
const { check, kinds } = require('../core/options.js')

/**
 * @param {{ root?: string }} [options]
 * @returns {import('../types/doctor.js').Diagnosis}
 */
function diagnose(options) {
  const { root } = check('diagnose', options, { root: kinds.string })
  if (root !== undefined && !existsSync(root)) {
    throw memoryError('ERR_OUT_OF_RANGE', `diagnose: there is no folder ${JSON.stringify(root)}`, { path: root })
  }
  // Loaded on demand: a program that only allocates needs none of it.
  const { examine } = require('./doctor/examine.js')
  const { makeReader } = require('./doctor/reader.js')
  return examine(makeReader(root), root === undefined ? require('./probe.js').probeDevices : undefined)
}

module.exports = { diagnose }
