'use strict'

// Checks the options of `createModelResidency`, and makes the core's definitions of them.

const { statSync } = require('node:fs')
const { resolve } = require('node:path')
const { fileURLToPath } = require('node:url')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { check, formatValue, invalid, kinds, nearest, outOfRange } = require('../core/options.js')
const { estimate, isMeasured } = require('../models/estimate.js')
const { startSchema: start } = require('../models/measure.js')
const specs = require('../models/options.js')
const { hasOneDomain } = require('../models/plan-reasons.js')
const { DOMAIN_WEIGHTS } = require('../models/terms.js')

/** The longest time of a timer. */
const MAX_MS = 2 ** 31 - 1
const LOAD_TIMEOUT_MS = 600_000
const KEEP_FREE = 256 * 2 ** 20

/**
 * @template T
 * @typedef {import('../core/options.js').Validator<T>} Validator
 */
/**
 * @typedef {import('../types/models.js').ModelEstimate} ModelEstimate
 * @typedef {import('../types/residency.js').ModelLoadContext} ModelLoadContext
 * @typedef {import('../types/residency.js').EvictionReason} EvictionReason
 *
 * @typedef {object} Checked a definition whose options were checked
 * @property {string} name
 * @property {(context: ModelLoadContext) => unknown} load
 * @property {import('./workers/worker-process.js').WorkerOptions | null} worker in place of `load`
 * @property {(model: any, context: { name: string, reason: EvictionReason }) => unknown} unload
 * @property {number} loadTimeoutMs
 * @property {string | undefined} path of the model's file
 * @property {ModelEstimate} figures
 * @property {import('./core/residency.js').Definition} core
 */

/** @type {Validator<Function>} */
const callback = (name, value) => {
  if (typeof value === 'function') return value
  throw invalid(`${name} must be a function, not ${formatValue(value)}`)
}

/** @type {Validator<number>} */
const finite = (name, value) => {
  if (typeof value !== 'number') throw invalid(`${name} must be a number, not ${formatValue(value)}`)
  if (!Number.isFinite(value)) throw outOfRange(`${name} is ${value}; it must be finite`)
  return value
}

/** @type {Validator<number>} Infinity: for ever. */
const keepAlive = kinds.milliseconds(Infinity)

/** @type {(value: unknown) => string | undefined} Not `instanceof`: a test environment has a URL of its own. */
const hrefOf = (value) => {
  const { href, protocol } = /** @type {Partial<URL>} */ (Object(value))
  return typeof href === 'string' && typeof protocol === 'string' ? href : undefined
}

/** @type {Validator<string>} */
const moduleFile = (name, value) => {
  const text = hrefOf(value) ?? kinds.nonEmptyString(name, value)
  let path
  try {
    path = text.startsWith('file:') ? fileURLToPath(text) : resolve(text)
  } catch (error) {
    throw invalid(`${name} is no file: ${/** @type {Error} */ (error).message}`)
  }
  if (statSync(path, { throwIfNoEntry: false })?.isFile()) return path
  const hint = 'a relative path begins at the working directory; pass new URL("./worker.mjs", import.meta.url)'
  throw memoryError('ERR_DEVICE_IO', `${name}: ${path} is no file`, { path, hint })
}

const workerSchema = {
  module: moduleFile,
  args: start.args,
  env: start.env,
  execPath: kinds.nonEmptyString,
  onOutput: callback,
}

/** @type {Validator<import('./workers/worker-process.js').WorkerOptions>} */
const worker = (name, value) => {
  const given = typeof value === 'string' || hrefOf(value) !== undefined ? { module: value } : value
  const checked = check(name, given ?? null, workerSchema)
  const { module: path, args = [], env = {}, execPath = process.execPath } = checked
  if (path === undefined) throw invalid(`${name} has no module`, 'name the module that loads the model')
  const onOutput = /** @type {((text: string) => void) | undefined} */ (checked.onOutput)
  return { module: path, args, env, execPath, onOutput }
}

const ownSchema = {
  worker,
  load: callback,
  unload: callback,
  ramBytes: kinds.integer(1),
  npuBytes: kinds.integer(0),
  keepAliveMs: keepAlive,
  priority: finite,
  pinned: kinds.boolean,
  concurrency: kinds.integer(1),
  group: kinds.nonEmptyString,
  loadTimeoutMs: kinds.milliseconds(MAX_MS),
}
const definitionSchema = { ...specs.model, ...ownSchema }

const residencySchema = {
  /** @type {Validator<Record<string, unknown>>} Each definition is checked for itself. */
  models: (name, value) => {
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return /** @type {Record<string, unknown>} */ (value)
    throw invalid(`${name} must be an object of definitions by name, not ${formatValue(value)}`)
  },
  limits: kinds.nested({ ram: kinds.integer(1), npu: kinds.integer(0) }),
  keepFree: kinds.integer(0),
  keepAliveMs: keepAlive,
  policy: kinds.oneOf('cost', 'lru'),
}

const requestSchema = { signal: kinds.signal, timeoutMs: kinds.milliseconds(Infinity), priority: finite }
const preloadSchema = { signal: kinds.signal }
const evictSchema = { force: kinds.boolean }

const WHAT = 'createModelResidency'

/**
 * @param {unknown} options
 * @param {import('../types/devices.js').DeviceInfo} device
 */
function residencyOptions(options, device) {
  if (options === undefined) throw invalid(`${WHAT} needs options`, 'e.g. { models: { chat: { path, load } } }')
  const checked = check(WHAT, options, residencySchema)
  const { limits = {}, keepFree = KEEP_FREE, keepAliveMs, policy = 'cost' } = checked
  if (checked.models === undefined) throw invalid(`${WHAT}: models is missing`)
  const models = Object.entries(checked.models).map(([name, definition]) =>
    definitionOf(name, definition, device, keepAliveMs),
  )
  if (models.length === 0) throw invalid(`${WHAT}: models is empty`, 'define at least one model')
  checkLimits(models, limits)
  return { models, limits, keepFree, policy }
}

/**
 * @param {string} name
 * @param {unknown} definition
 * @param {import('../types/devices.js').DeviceInfo} device
 * @param {number | undefined} ownKeepAliveMs of the residency
 * @returns {Checked}
 */
function definitionOf(name, definition, device, ownKeepAliveMs) {
  const what = `${WHAT}: models.${name}`
  const checked = check(what, definition ?? null, definitionSchema)
  const { load, unload, ramBytes, npuBytes, keepAliveMs = ownKeepAliveMs, loadTimeoutMs = LOAD_TIMEOUT_MS } = checked
  const { priority, pinned, concurrency, group, worker: inWorker = null } = checked
  const own = Object.keys(ownSchema)
  /** @type {import('../types/models.js').ModelSpec} */
  const spec = Object.fromEntries(Object.entries(checked).filter(([field]) => !own.includes(field)))
  if (load === undefined && inWorker === null) {
    const hint = 'add load: async ({ domain, signal }) => …, or worker: the module that loads it in a process'
    throw invalid(`${what} has neither load nor worker`, hint)
  }
  if (load !== undefined && inWorker !== null)
    throw invalid(`${what} has both load and worker`, 'keep load for this process, or worker for one of its own')
  if (unload !== undefined && inWorker !== null)
    throw invalid(`${what} has unload beside worker`, 'export unload from the module of the worker')
  const { figures, ram, npu } = bytesOf(what, spec, { ramBytes, npuBytes }, device)
  // The RKNN API has no domain for a model: it allocates in domain 0.
  const inDomain0 = figures.architecture === 'rknn' && Object.keys(spec).length > 0
  const call = (/** @type {Function} */ method) => (/** @type {unknown[]} */ ...args) =>
    Reflect.apply(method, definition, args)
  return {
    name,
    load: load === undefined ? () => {} : call(load),
    worker: inWorker,
    unload: unload === undefined ? () => {} : call(unload),
    loadTimeoutMs,
    path: spec.path,
    figures,
    core: {
      name,
      ram,
      npu,
      domain: inDomain0 ? 0 : null,
      // The runtime continues a model that no domain holds in the next ones.
      spread: inDomain0 || group !== undefined || hasOneDomain(device) ? null : DOMAIN_WEIGHTS,
      keepAliveMs,
      priority,
      pinned,
      concurrency,
      group,
    },
  }
}

/**
 * Returns the estimate, and the most bytes that a model takes: those that are stated, else the upper ends of the bands.
 *
 * @param {string} what
 * @param {import('../types/models.js').ModelSpec} spec
 * @param {{ ramBytes?: number, npuBytes?: number }} stated
 * @param {import('../types/devices.js').DeviceInfo} device
 */
function bytesOf(what, spec, { ramBytes, npuBytes }, { soc }) {
  const isStated = ramBytes !== undefined && Object.keys(spec).length === 0
  /** @type {import('../types/models.js').ModelSpec} */
  const estimated = isStated
    ? { type: 'vision', weightBytes: ramBytes }
    : typeof soc === 'string' && isMeasured(soc)
      ? { soc, ...spec }
      : spec
  let figures
  try {
    figures = estimate(estimated)
  } catch (cause) {
    const { code, message, hint, ...details } = /** @type {import('../types/errors.js').MemoryError} */ (cause)
    if (typeof code !== 'string') throw cause
    const remedy = [hint, 'or state ramBytes alone'].filter(Boolean).join('; ')
    throw memoryError(code, `${what} cannot be estimated: ${message}`, { ...details, hint: remedy }, { cause })
  }
  const ram = ramBytes ?? Math.ceil(figures.full * (1 + figures.uncertainty))
  const npu = npuBytes ?? (isStated ? ram : Math.min(ram, figures.domain.max))
  if (npu > ram) {
    const figure = { requested: npu, limit: ram, hint: 'NPU memory is RAM: count it in ramBytes too' }
    throw outOfRange(`${what}: npuBytes is ${npu}, more than the ${formatBytes(ram)} of RAM`, figure)
  }
  return { figures, ram, npu }
}

/**
 * Refuses limits that no model fits in.
 *
 * @param {Checked[]} models
 * @param {{ ram?: number, npu?: number }} limits
 */
function checkLimits(models, limits) {
  for (const kind of /** @type {const} */ (['ram', 'npu'])) {
    const limit = limits[kind]
    const smallest = models.reduce((best, model) => (model.core[kind] < best.core[kind] ? model : best))
    const needed = smallest.core[kind]
    if (limit === undefined || needed <= limit) continue
    const message =
      `${WHAT}: limits.${kind} is ${formatBytes(limit)}, and the smallest model, ` +
      `${JSON.stringify(smallest.name)}, may take ${formatBytes(needed)}`
    throw outOfRange(message, { requested: needed, limit, scope: kind, hint: `allow at least ${needed} bytes` })
  }
}

/**
 * The error for a name that no model has.
 *
 * @param {string} what
 * @param {unknown} name
 * @param {string[]} names
 */
function unknownModel(what, name, names) {
  if (typeof name !== 'string') return invalid(`${what}: a model's name must be a string, not ${formatValue(name)}`)
  const meant = nearest(name, names)
  const hint =
    meant === undefined
      ? `the models are ${names.map((known) => JSON.stringify(known)).join(', ')}`
      : `did you mean ${JSON.stringify(meant)}?`
  return invalid(`${what}: no model is called ${JSON.stringify(name)}`, hint)
}

module.exports = { evictSchema, preloadSchema, requestSchema, residencyOptions, unknownModel }
