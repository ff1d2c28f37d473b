'use strict'

// `ModelResidency`, the public class: checks arguments, and leaves the rest to the shell.

const { EventEmitter } = require('node:events')
const { inspect } = require('node:util')
const { publicClass, publicFunction } = require('../core/border.js')
const { defineAsyncDispose } = require('../core/disposable.js')
const { onDemand } = require('../core/on-demand.js')
const { inspectNonInstance } = require('../core/inspect-non-instance.js')
const { channels } = require('../core/diagnostics-channels.js')
const { check, formatValue, invalid } = require('../core/options.js')
const { makeLease } = require('./lease.js')
const schemas = require('./options.js')
const refusals = require('./refusals.js')
const { Shell } = require('./shell.js')

const lockFiles = onDemand(() => require('./workers/lock-files.js'))

const kConstruct = Symbol('ModelResidency')

/**
 * @typedef {import('./lease.js').Grant} Grant
 *
 * @typedef {object} ResidencyHost the parts of a manager that a residency uses
 * @property {import('../core/manager-handle.js').ManagerHandle} handle
 * @property {Set<Shell>} residencies those that end with the manager
 */

class ModelResidency extends EventEmitter {
  #shell
  #host

  /**
   * @param {symbol} key
   * @param {import('../types/manager.js').MemoryManager} manager
   * @param {ResidencyHost} host
   * @param {import('../types/devices.js').DeviceInfo} device
   * @param {ReturnType<typeof schemas.residencyOptions>} options
   */
  constructor(key, manager, host, device, options) {
    if (key !== kConstruct) throw invalid('a ModelResidency is made by manager.createModelResidency')
    super()
    this.#host = host
    const emit = (/** @type {string} */ name, /** @type {import('../types/residency.js').ModelEvent} */ event) => {
      if (channels.model.hasSubscribers) channels.model.publish({ manager, event: name, ...event })
      this.emit(name, event)
    }
    const wants = (/** @type {string} */ name) => this.listenerCount(name) > 0 || channels.model.hasSubscribers
    this.#shell = new Shell({ handle: host.handle, device }, { emit, wants }, options)
    host.residencies.add(this.#shell)
  }

  get closed() {
    return this.#shell.closed
  }

  /**
   * @param {string} name
   * @param {import('../types/residency.js').ModelRequestOptions} [options]
   */
  async acquire(name, options) {
    return makeLease(await this.#ask('acquire', name, check('acquire', options, schemas.requestSchema)))
  }

  /**
   * @param {string} name
   * @param {{ signal?: AbortSignal }} [options]
   */
  async preload(name, options) {
    await this.#ask('preload', name, check('preload', options, schemas.preloadSchema), true)
  }

  /**
   * @param {string} name
   * @param {{ force?: boolean }} [options]
   */
  async evict(name, options) {
    const checked = check('evict', options, schemas.evictSchema)
    this.#check('evict', name)
    await this.#shell.evict(name, checked)
  }

  /** @param {string[]} names */
  plan(...names) {
    for (const name of names) this.#check('plan', name)
    return this.#shell.plan(names)
  }

  stats() {
    return this.#shell.stats()
  }

  async close() {
    await this.#shell.close()
    this.#host.residencies.delete(this.#shell)
  }

  /**
   * @param {number} depth
   * @param {import('node:util').InspectOptionsStylized} options
   */
  [inspect.custom](depth, options) {
    if (!(#shell in this)) return inspectNonInstance(options)
    const name = options.stylize('ModelResidency', 'special')
    if (this.closed) return `${name} (closed)`
    const { models } = this.stats()
    const states = models.map(({ name: model, state }) => `${model}: ${state}`).join(', ')
    return depth < 0 ? `${name} (${models.length} models)` : `${name} { ${states} }`
  }

  /**
   * Checks the arguments of `use`, and asks for its lease.
   *
   * @param {string} name
   * @param {unknown} work
   * @param {unknown} options
   */
  static lease = publicFunction(
    /** @type {(residency: ModelResidency, ...args: unknown[]) => Promise<Grant>} */
    (
      async function use(residency, name, work, options) {
        if (!(Object(residency) === residency && #shell in residency))
          throw invalid(`ModelResidency: use was called on ${formatValue(residency)}, which is no ModelResidency`)
        if (typeof work !== 'function') throw invalid(`use: work must be a function, not ${formatValue(work)}`)
        return residency.#ask('use', name, check('use', options, schemas.requestSchema))
      }
    ),
  )

  /**
   * @param {string} what
   * @param {unknown} name
   * @param {{ signal?: AbortSignal, timeoutMs?: number, priority?: number }} options
   * @param {boolean} [preload]
   * @returns {any}
   */
  #ask(what, name, options, preload) {
    return this.#shell.ask(this.#check(what, name), options, preload)
  }

  /**
   * Checks the name of a model.
   *
   * @param {string} what
   * @param {unknown} name
   */
  #check(what, name) {
    if (this.#shell.closed) throw refusals.closed()
    if (typeof name === 'string' && this.#shell.has(name)) return name
    throw schemas.unknownModel(what, name, this.#shell.names)
  }

  static {
    defineAsyncDispose(/** @type {any} */ (ModelResidency), async function dispose() {
      await /** @type {any} */ (this).close()
    })
    publicClass(ModelResidency, (value) => #shell in value)
  }
}

const { lease } = ModelResidency
Reflect.deleteProperty(ModelResidency, 'lease')

/**
 * Defined outside the public border: the errors of `work` are the caller's, and pass as they are.
 *
 * @this {ModelResidency}
 * @param {string} name
 * @param {(model: any, context: { signal: AbortSignal }) => unknown} work
 * @param {import('../types/residency.js').ModelRequestOptions} [options]
 */
async function use(name, work, options) {
  const grant = await lease(this, name, work, options)
  try {
    return await whileAlive(grant, work)
  } finally {
    grant.release()
  }
}
Object.defineProperty(ModelResidency.prototype, 'use', { value: use, configurable: true, writable: true })

/**
 * Settles as `work` does, unless the model ends before.
 *
 * @param {Grant} grant
 * @param {(model: any, context: { signal: AbortSignal }) => unknown} work
 */
function whileAlive(grant, work) {
  return new Promise((resolve, reject) => {
    // It may have ended since it was granted.
    if (grant.isOver) return reject(grant.reason)
    grant.onEnd = reject
    const context = {
      get signal() {
        return grant.signal
      },
    }
    const outcome = (async () => work(grant.model, context))()
    outcome.then(resolve, reject)
  })
}

/** Ends the workers that a crashed process left: their memory would be missing. */
function endLeftWorkers() {
  const killed = lockFiles().endLeftWorkers()
  if (killed.length === 0) return
  const message = `ended ${killed.length} processes of models that a crashed program left: ${killed.join(', ')}`
  process.emitWarning(message, { code: 'RKLLM_LEFT_WORKERS' })
}

/**
 * Implements `manager.createModelResidency`.
 *
 * @param {import('../types/manager.js').MemoryManager} manager
 * @param {ResidencyHost} host
 * @param {import('../types/devices.js').DeviceInfo} device
 * @param {unknown} options
 */
function makeResidency(manager, host, device, options) {
  const checked = schemas.residencyOptions(options, device)
  if (checked.models.some(({ worker }) => worker !== null)) endLeftWorkers()
  return new ModelResidency(kConstruct, manager, host, device, checked)
}

module.exports = { ModelResidency, makeResidency }
