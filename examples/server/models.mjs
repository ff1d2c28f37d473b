/**
 * The models of the server. The residency loads them on demand, each in a process of its own, evicts idle ones for
 * others, and lets requests wait for their turn. Bounds on the wait, and estimates of it, are here.
 */

import { ApiError } from './errors.mjs'

/** Share of the newest run in the means. */
const NEWEST = 0.2
const ENGINE = new URL('./engine.mjs', import.meta.url)

export class Models {
  #residency
  #models
  #options
  /** Controllers of the requests that wait or run. */
  #requests = new Set()
  #idle = () => {}
  /** Means of the last runs: seconds, and bytes of the request that each gave back. */
  #seconds = 0
  #bytes = 0
  running = 0
  /** Why no request is taken; undefined while the server serves. */
  closed

  /**
   * @param {import('../../index.js').MemoryManager} memory
   * @param {{ models: import('./options.mjs').Model[], queue: number, waitSeconds: number,
   * stallSeconds: number, keepAliveSeconds?: number, modelsRam?: number, started: number }} options
   */
  constructor(memory, options) {
    const { keepAliveSeconds, modelsRam } = options
    this.#options = options
    this.#models = new Map(options.models.map((model) => [model.name, model]))
    const definitions = options.models.map((model) => [model.name, definitionOf(model, options)])
    this.#residency = memory.createModelResidency({
      models: Object.fromEntries(definitions),
      ...(keepAliveSeconds !== undefined && { keepAliveMs: 1000 * keepAliveSeconds }),
      limits: { ram: modelsRam },
    })
  }

  get waiting() {
    return this.#requests.size - this.running
  }

  /** The first model, or that of a name. */
  find(name = this.#options.models[0].name) {
    const model = this.#models.get(name)
    if (model !== undefined) return model
    const names = [...this.#models.keys()].map((one) => JSON.stringify(one)).join(', ')
    const message = `there is no model ${JSON.stringify(name)}; this server has ${names}`
    throw new ApiError(404, 'model_not_found', message, { param: 'model' })
  }

  /** What OpenAI's API tells of each model, with its state in memory. */
  cards() {
    return this.#residency.stats().models.map(({ name, state, leases, waiting, bytes, loadMs }) => ({
      id: name, object: 'model', created: this.#options.started, owned_by: 'local',
      state, running: leases, waiting, bytes: bytes.reserved, load_ms: loadMs,
    }))
  }

  /** Loads the first model, so that a server that cannot serve ends at once. */
  async load() {
    await this.#residency.preload(this.find().name)
    this.#residency.on('fail', ({ error }) => console.error(error.message))
    this.#residency.on('stuck', ({ name, bytes, keptBy }) => console.error(`${name}: the ${keptBy} keeps ${bytes} B`))
  }

  /** Throws where a request would not be taken, before it costs memory. */
  expectRoom() {
    if (this.closed !== undefined) throw new ApiError(503, 'shutting_down', this.closed, { retryAfter: 5 })
    const { queue } = this.#options
    if (this.waiting < queue) return
    const message = `${this.waiting} requests wait, and ${queue} may: the server is overloaded`
    throw new ApiError(503, 'overloaded', message, { retryAfter: this.secondsUntilFree(0) })
  }

  /** Estimates seconds until `bytes` more of requests are free, by the bytes that the last runs gave back. */
  secondsUntilFree(bytes) {
    const runs = this.#bytes === 0 ? 1 : Math.max(1, bytes / this.#bytes)
    return clamp(runs * this.#seconds)
  }

  /** Estimates seconds until a model serves: by the requests before, and by its last load. */
  #secondsUntilReady(name) {
    const { state, leases, waiting, loadMs } = this.#residency.stats().models.find((one) => one.name === name)
    return clamp((leases + waiting) * this.#seconds + (state === 'ready' ? 0 : (loadMs ?? 0) / 1000))
  }

  /**
   * Waits until the model is loaded and free, then calls `task` with its engine.
   *
   * @template T
   * @param {{ name: string }} model
   * @param {{ bytes: number, controller: AbortController }} request
   * @param {(engine: any) => Promise<T>} task looks at the controller's signal itself
   * @returns {Promise<T>}
   */
  async run({ name }, { bytes, controller }, task) {
    this.expectRoom()
    const { signal } = controller
    let began
    const work = (engine) => {
      began = performance.now()
      this.running++
      return task(engine)
    }
    this.#requests.add(controller)
    try {
      return await this.#residency.use(name, work, { signal, timeoutMs: 1000 * this.#options.waitSeconds })
    } catch (error) {
      signal.throwIfAborted()
      if (began === undefined) throw this.#notLoaded(name, error)
      if (error.code !== 'ERR_DEVICE_LOST') throw error
      throw new ApiError(502, 'model_lost', error.message, { cause: error, retryAfter: this.#secondsUntilReady(name) })
    } finally {
      this.#requests.delete(controller)
      if (began !== undefined) this.#count((performance.now() - began) / 1000, bytes)
      if (this.#requests.size === 0) this.#idle()
    }
  }

  #count(seconds, bytes) {
    this.running--
    const share = this.#bytes === 0 ? 1 : NEWEST
    this.#seconds += share * (seconds - this.#seconds)
    this.#bytes += share * (bytes - this.#bytes)
  }

  /** The error for a request that got no lease: its model was not loaded, or in use for too long. */
  #notLoaded(name, cause) {
    const { code, message, requested, limit } = cause
    if (code === 'ERR_POOL_BUSY')
      return new ApiError(503, 'model_busy', message, { cause, retryAfter: this.#secondsUntilReady(name) })
    // What exceeds the machine will do so later too.
    const retryAfter = requested > limit ? undefined : this.#secondsUntilReady(name)
    return new ApiError(503, 'model_unavailable', message, { cause, retryAfter })
  }

  /** Takes no more requests. Resolves when those that wait or run have ended. */
  async close(why) {
    this.closed ??= why
    if (this.#requests.size > 0) await new Promise((resolve) => (this.#idle = resolve))
  }

  /** Ends the requests that wait and those that run. */
  abort(reason) {
    for (const controller of this.#requests) controller.abort(reason)
  }

  /** Unloads all models; their processes end. */
  unload() {
    return this.#residency.close()
  }
}

function definitionOf(model, { models, stallSeconds }) {
  const { name, file, context, promptBytes, hidden, ram, library, understudy } = model
  const backend = understudy ? 'simulated' : undefined
  const settings = { name, file, library, context, promptBytes, hidden, backend, stallSeconds }
  return {
    // The runtime's log.
    worker: { module: ENGINE, args: [JSON.stringify(settings)], onOutput: (text) => process.stderr.write(text) },
    ...(ram === undefined ? { path: file, contextLength: context } : { ramBytes: ram }),
    // The understudy takes no memory of a device.
    ...(understudy && { npuBytes: 0 }),
    // Alone, it has no one to make room for.
    pinned: models.length === 1,
  }
}

/** Seconds for Retry-After. */
const clamp = (seconds) => Math.min(120, Math.max(1, Math.ceil(seconds)))
