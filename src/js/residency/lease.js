'use strict'

// `ModelLease`: the right to use a loaded model. A lease that is dropped without `release` is released when the
// collector finds it, so that a mistake of one caller does not hold the model for ever.

const { publicClass } = require('../core/border.js')
const { defineDispose } = require('../core/disposable.js')
const { invalid } = require('../core/options.js')
const { AbortController } = require('../core/runtime.js')

const kConstruct = Symbol('ModelLease')

/** The shared state of a granted request: the lease, the residency and `use` see it. */
class Grant {
  /** @type {AbortController | undefined} made for the first look at the signal */
  #controller
  /** @type {unknown} */
  #ended
  /** Called when the model ends under the lease. @type {((reason: unknown) => void) | undefined} */
  onEnd

  /**
   * @param {string} name
   * @param {any} model
   * @param {() => void} release
   */
  constructor(name, model, release) {
    this.name = name
    this.model = model
    this.release = release
    /** Whether the model has ended under the lease. */
    this.isOver = false
    /** @type {unknown} */
    this.reason = undefined
  }

  get signal() {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#ended !== undefined) this.#controller.abort(this.#ended)
    }
    return this.#controller.signal
  }

  /** @param {unknown} reason */
  warn(reason) {
    this.#ended ??= reason
    this.#controller?.abort(reason)
  }

  /** @param {unknown} reason */
  end(reason) {
    this.isOver = true
    this.reason = reason
    this.warn(reason)
    this.onEnd?.(reason)
  }
}

/** Releases leases that were dropped. */
const dropped = new FinalizationRegistry((/** @type {Grant} */ grant) => {
  process.emitWarning(`a lease of the model ${JSON.stringify(grant.name)} was dropped without release()`, {
    code: 'RKLLM_LEASE_DROPPED',
    detail: 'release it in a finally block, declare it with using, or call residency.use',
  })
  grant.release()
})

class ModelLease {
  #grant

  /**
   * @param {symbol} key
   * @param {Grant} grant
   */
  constructor(key, grant) {
    if (key !== kConstruct) throw invalid('a ModelLease is made by residency.acquire')
    this.#grant = grant
    dropped.register(this, grant, grant)
  }

  get name() {
    return this.#grant.name
  }

  get model() {
    return this.#grant.model
  }

  get signal() {
    return this.#grant.signal
  }

  release() {
    dropped.unregister(this.#grant)
    this.#grant.release()
  }

  static {
    defineDispose(ModelLease, function dispose() {
      this.release()
    })
    publicClass(ModelLease, (value) => #grant in value)
  }
}

/** @param {Grant} grant */
const makeLease = (grant) => new ModelLease(kConstruct, grant)

module.exports = { Grant, makeLease }
