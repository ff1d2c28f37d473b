'use strict'

const load = require('./chapters.js')
const { MAX_REUSE_AFTER_MS, REUSE_AFTER_MS } = require('./core/allocation-options.js')
const { check, kinds } = require('./core/options.js')
const { cleanup } = require('./reclaim/options.js')

/**
 * @template T
 * @typedef {import('./core/options.js').Validator<T>} Validator
 */
/**
 * @template {import('./core/options.js').Schema} S
 * @typedef {import('./core/options.js').Checked<S>} Checked
 */

/** @type {import('./types/devices.js').Backend[]} */
const BACKENDS = ['rknpu', 'rknpu-heap', 'rocket', 'dma-heap', 'simulated']

/** The options of `new MemoryManager`. */
const managerOptions = {
  backend: kinds.oneOf('auto', ...BACKENDS),
  device: kinds.nonEmptyString,
  simulated: kinds.nested({
    soc: kinds.string,
    domainBytes: kinds.integer(1),
    domains: kinds.integer(0, 2 ** 31 - 1),
    sramBytes: kinds.integer(0),
    maxObjects: kinds.integer(1),
    latencyMs: kinds.milliseconds(60_000),
    caches: kinds.oneOf('coherent', 'incoherent'),
    cacheMaintenance: kinds.oneOf('ranges', 'objects'),
  }),
  slabs: kinds.nested({
    threshold: kinds.integer(0),
    size: kinds.integer(1),
    reuseAfterMs: kinds.milliseconds(MAX_REUSE_AFTER_MS),
  }),
  cleanup: kinds.nested(cleanup),
  /** @type {Validator<unknown>} `Limits.check` checks it. */
  limits: (_name, value) => value,
  debug: kinds.nested({ delayReuse: kinds.integer(0, 1_000_000), checkSync: kinds.boolean }),
  inspect: kinds.boolean,
  /** @type {Validator<boolean | Checked<typeof import('./profiling/options.js').profilingOptions>>} */
  profiling: (name, value) =>
    typeof value === 'boolean' ? value : check(name, value, load.profilingOptions().profilingOptions),
}

/**
 * The native part's options of slabs.
 *
 * @param {object} [slabs]
 * @param {object} [debug]
 */
const slabOptions = (slabs, debug) => ({ reuseAfterMs: REUSE_AFTER_MS, ...slabs, ...debug })

/** The warning of a manager that found no NPU. */
const SIMULATED =
  "No NPU on this machine: @rkllmjs/memory runs on a simulated one. Pass backend: 'simulated' to say that you mean it."

module.exports = { SIMULATED, managerOptions, slabOptions }
