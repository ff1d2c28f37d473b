'use strict'

const { kinds } = require('../core/options.js')

/** The options of `enableMemoryProfiling`, and the option `profiling` of a manager. */
const profilingOptions = {
  sampleInterval: kinds.integer(1),
  eventCapacity: kinds.integer(0, 2 ** 24),
  stackDepth: kinds.integer(1, 200),
  leakAfterMs: kinds.milliseconds(2 ** 31 - 1),
}

module.exports = { profilingOptions }
