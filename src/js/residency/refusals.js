'use strict'

// The errors of refused requests: what was asked for, the figures, and what would help.

const { MemoryError, memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { explainError } = require('../explain/explain.js')
const { isExhaustion } = require('../reclaim/exhaustion.js')

/**
 * @typedef {ReturnType<import('./core/residency.js').ResidencyCore['stats']>} CoreStats
 * @typedef {import('../types/errors.js').MemoryError} MemoryError
 * @typedef {{ name: string, ram: number, npu: number, domain?: number | null }} Demand
 */

/** @type {(name: string) => string} */
const quoted = (name) => JSON.stringify(name)

/** @type {(name: string, bytes: number, kind: string) => string} */
const may = (name, bytes, kind) => `the model ${quoted(name)} may need ${formatBytes(bytes)} of ${kind}`

/**
 * The error of a model that can never fit.
 *
 * @param {Demand} demand
 * @param {CoreStats} stats
 * @param {CoreStats['models']} held pinned models that stay
 */
function neverFits({ name, ram, npu, domain = null }, stats, held) {
  const beside = held.length > 0 ? ` beside the pinned ${held.map((model) => quoted(model.name)).join(', ')}` : ''
  const sum = (/** @type {'ram' | 'npu'} */ kind) => held.reduce((total, { reserved }) => total + reserved[kind], 0)
  const hint = 'a shorter contextLength, 4-bit weights (w4a16) or a smaller model takes less; planModels computes it'
  const ramLeft = stats.ram.limit - sum('ram')
  if (ram > ramLeft) {
    const message = `${may(name, ram, 'RAM')}, and models may take ${formatBytes(ramLeft)}${beside}`
    return memoryError('ERR_OUT_OF_MEMORY', message, { requested: ram, limit: ramLeft, scope: 'ram', hint })
  }
  const npuLeft = stats.npu.limit - sum('npu')
  if (npu > npuLeft) {
    const message = `${may(name, npu, 'NPU memory')}, and models may take ${formatBytes(npuLeft)}${beside}`
    return memoryError('ERR_MEMORY_LIMIT', message, { requested: npu, limit: npuLeft, scope: 'npu', hint })
  }
  const domains = stats.domains.filter(({ id }) => domain === null || id === domain)
  const largest = domains.reduce((best, { limit }) => Math.max(best, limit), 0)
  const where = domain === null ? 'the largest IOMMU domain has' : `IOMMU domain ${domain} has`
  const message = `${may(name, npu, 'NPU memory')}, and ${where} ${formatBytes(largest)}${beside}`
  return memoryError('ERR_IOVA_EXHAUSTED', message, { requested: npu, limit: largest, scope: 'domain', hint })
}

/** The reason of a request's wait, by the model's state. */
const WAITED = {
  // The last request that waited for memory has left the queue.
  cold: 'waited for memory',
  queued: 'waited for memory',
  loading: 'was being loaded',
  ready: 'was in use',
  unloading: 'was being unloaded',
  stuck: 'waited for its own memory, which did not come back',
  failed: 'waited for memory',
}

/**
 * The error of a request whose deadline is over.
 *
 * @param {Demand} demand
 * @param {number} timeoutMs
 * @param {CoreStats} stats
 */
function timedOut({ name, ram }, timeoutMs, stats) {
  const state = stats.models.find((model) => model.name === name)?.state ?? 'cold'
  const left = Math.max(0, stats.ram.limit - stats.ram.others - stats.ram.reserved)
  const hint = 'wait longer (timeoutMs), ask for fewer models at once, or look at residency.stats()'
  const waited = `the model ${quoted(name)} ${WAITED[state]} for ${Math.round(timeoutMs)} ms`
  if (WAITED[state] !== WAITED.queued) return memoryError('ERR_POOL_BUSY', waited, { hint })
  const free = `${formatBytes(left)} of the models' ${formatBytes(stats.ram.limit)} are free`
  const message = `${waited}: it may need ${formatBytes(ram)} of RAM, and ${free}`
  return memoryError('ERR_POOL_BUSY', message, { requested: ram, available: left, hint })
}

/**
 * The error of a load that failed. The cause is looked for among the known messages of drivers and runtimes.
 *
 * @param {string} name
 * @param {unknown} cause
 * @param {string} [output] of the process that loaded
 */
function loadFailed(name, cause, output = '') {
  const text = textOf(cause)
  const known = explainError(`${text}\n${output}`)
  const reason = known === null ? text.split('\n', 1)[0] : known.cause
  const hint = known?.remedy ?? /** @type {Partial<MemoryError>} */ (Object(cause)).hint
  const message = `the model ${quoted(name)} was not loaded: ${reason}`
  return memoryError(codeOf(cause) ?? known?.code ?? 'ERR_DEVICE_IO', message, hint ? { hint } : {}, { cause })
}

/**
 * The bytes that a load lacked: those that the manager refused, at least one for another shortage, and 0 for an error
 * that more memory does not help.
 *
 * @param {MemoryError} error of `loadFailed`
 * @param {unknown} cause
 */
function lackOf(error, cause) {
  if (!isExhaustion(error)) return 0
  const { requested } = /** @type {Partial<MemoryError>} */ (Object(cause))
  return typeof requested === 'number' && requested > 0 ? requested : 1
}

/**
 * The error of a model whose process ended, for those that had it on lease.
 *
 * @param {string} name
 * @param {unknown} cause
 * @param {string} output
 */
function ended(name, cause, output) {
  const known = explainError(output)
  const { message, hint } = /** @type {MemoryError} */ (cause)
  const figures = known === null ? (hint ? { hint } : {}) : { hint: known.remedy }
  const text = known === null ? message : `the model ${quoted(name)} ended: ${known.cause}`
  return memoryError('ERR_DEVICE_LOST', text, figures, { cause })
}

/**
 * The error of an unload that failed.
 *
 * @param {string} name
 * @param {unknown} cause
 */
const unloadFailed = (name, cause) =>
  memoryError(
    codeOf(cause) ?? 'ERR_DEVICE_IO',
    `the model ${quoted(name)} was not unloaded, and its memory counts: ${textOf(cause).split('\n', 1)[0]}`,
    { hint: `residency.evict(${quoted(name)}) tries it again` },
    { cause },
  )

/**
 * The code of a MemoryError; undefined of other errors.
 *
 * @param {unknown} cause
 */
const codeOf = (cause) => (cause instanceof MemoryError ? cause.code : undefined)

/**
 * The error of memory that an unload did not give back.
 *
 * @param {string} name
 * @param {number} bytes
 */
const kept = (name, bytes) =>
  memoryError(
    'ERR_DEVICE_IO',
    `the model ${quoted(name)} was unloaded, and its library keeps ${formatBytes(bytes)} in this process`,
    { hint: 'run it as a worker, whose memory comes back with the end of its process' },
  )

/**
 * The text of anything that a caller's function threw.
 *
 * @param {unknown} cause
 */
function textOf(cause) {
  try {
    const { message, code } = /** @type {NodeJS.ErrnoException} */ (Object(cause))
    return typeof message === 'string' ? [message, code].filter(Boolean).join(' ') : String(cause)
  } catch {
    return 'an error without text'
  }
}

/**
 * @param {string} name
 * @param {string} how it ended
 * @param {unknown} [cause]
 */
const died = (name, how, cause) =>
  memoryError('ERR_DEVICE_LOST', `the model ${quoted(name)} ended under a lease: ${how}`, {}, { cause })

const closed = () => memoryError('ERR_MANAGER_DISPOSED', 'this ModelResidency was closed')

/**
 * @param {string} name
 * @param {number} leases
 * @param {number} waiting
 */
const busy = (name, leases, waiting) =>
  memoryError('ERR_POOL_BUSY', `the model ${quoted(name)} has ${leases} leases, and ${waiting} requests wait for it`, {
    hint: 'wait for them, or pass { force: true }, which ends them with ERR_DEVICE_LOST',
  })

module.exports = { busy, closed, died, ended, kept, lackOf, loadFailed, neverFits, timedOut, unloadFailed }
