'use strict'

// The options of an allocation, of the manager's and of a pool's chunks.

const { check, kinds } = require('./options.js')

/** How long a freed slice waits whose ArrayBuffer a script has seen, in ms: `reuseAfterMs` of pools and slabs. */
const REUSE_AFTER_MS = 2000
const MAX_REUSE_AFTER_MS = 86_400_000

const allocation = {
  tag: kinds.tag,
  alignment: kinds.integer(1),
  zeroed: kinds.boolean,
}

const npuAllocation = {
  ...allocation,
  cacheable: kinds.boolean,
  contiguous: kinds.boolean,
  placement: kinds.oneOf('dram', 'try-sram'),
  iommuDomain: kinds.integer(0, 2 ** 31 - 1),
  coreMask: kinds.integer(0, 2 ** 32 - 1),
  dedicated: kinds.boolean,
}

const npuAllocationAsync = { ...npuAllocation, signal: kinds.signal }

const systemAllocation = {
  ...allocation,
  hugePages: kinds.oneOf(/** @type {boolean | 'try'} */ (true), false, 'try'),
  lock: kinds.boolean,
  prefault: kinds.boolean,
}

/**
 * Checks the options of an NPU allocation and converts them for the native part.
 *
 * @param {string} what
 * @param {unknown} options
 * @param {typeof npuAllocation} [schema]
 */
function npuRequest(what, options, schema = npuAllocation) {
  const { placement, ...rest } = check(what, options, /** @type {typeof npuAllocationAsync} */ (schema))
  return { ...rest, sram: placement === 'try-sram' }
}

/**
 * Checks the options of a system allocation and converts them for the native part.
 *
 * @param {string} what
 * @param {unknown} options
 */
function systemRequest(what, options) {
  // The kernel always gives zeroed pages.
  const { hugePages, zeroed: _always, ...rest } = check(what, options, systemAllocation)
  return { ...rest, hugePages: hugePages === true ? true : hugePages === 'try' ? false : undefined }
}

module.exports = {
  MAX_REUSE_AFTER_MS,
  REUSE_AFTER_MS,
  allocation,
  npuAllocationAsync,
  npuRequest,
  systemRequest,
}
