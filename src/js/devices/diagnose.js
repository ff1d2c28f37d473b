'use strict'

// Implements `diagnose`: the checks of `rkllm-memory doctor`, as data.

const { existsSync, realpathSync } = require('node:fs')
const { resolve } = require('node:path')
const { memoryError } = require('../core/errors.js')
const { check, kinds } = require('../core/options.js')

/**
 * @param {{ root?: string, models?: string }} [options]
 * @returns {import('../types/doctor.js').Diagnosis}
 */
function diagnose(options) {
  const { root, models } = check('diagnose', options, { root: kinds.string, models: kinds.string })
  if (root !== undefined && !existsSync(root)) {
    throw memoryError('ERR_OUT_OF_RANGE', `diagnose: there is no folder ${JSON.stringify(root)}`, { path: root })
  }
  // Loaded on demand: a program that only allocates needs none of it.
  const { examine } = require('./doctor/examine.js')
  const { makeReader } = require('./doctor/reader.js')
  const probe = root === undefined ? require('./probe.js').probeDevices : undefined
  return examine(makeReader(root), probe, models === undefined ? undefined : placeOf(models, root))
}

/**
 * Returns the path of models without symbolic links. In a bundle, which has no links, it must be absolute.
 *
 * @param {string} models
 * @param {string} [root]
 */
function placeOf(models, root) {
  if (root !== undefined) {
    if (models.startsWith('/')) return resolve(models)
    throw memoryError('ERR_OUT_OF_RANGE', `models is ${JSON.stringify(models)}; with root it must be absolute`, {
      path: models,
    })
  }
  try {
    return realpathSync(models)
  } catch (error) {
    const { code } = /** @type {NodeJS.ErrnoException} */ (error)
    const message = `models: ${JSON.stringify(models)} cannot be found: ${code}`
    throw memoryError('ERR_OUT_OF_RANGE', message, { path: models }, { cause: error })
  }
}

module.exports = { diagnose, placeOf }
