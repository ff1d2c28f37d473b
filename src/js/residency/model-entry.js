'use strict'

// One model of a residency: loads and unloads it, and counts what it holds.

const native = require('../core/binding.js')
const { memoryError } = require('../core/errors.js')
const { AbortController, clearInterval, clearTimeout, setInterval, setTimeout } = require('../core/runtime.js')
const { InProcess, InWorker } = require('./engines.js')
const { LoadProgress } = require('./load-progress.js')
const { machineChange, readMachine } = require('./machine-change.js')

/**
 * @typedef {import('./options.js').Checked} Checked
 * @typedef {import('../types/residency.js').EvictionReason} EvictionReason
 * @typedef {{ id: number, bytes: number }} Piece bytes in a domain
 * @typedef {{ ram: number, npu: number }} Bytes
 */

/** Memory that is kept is looked for so often. */
const RETURN_MS = 1000
/** @type {Bytes} */
const NOTHING = Object.freeze({ ram: 0, npu: 0 })

class ModelEntry {
  #handle
  /** @type {import('./engines.js').Engine} */
  #engine
  /** @type {number[]} the manager's reservations for it */
  #reservations = []
  /** @type {AbortController | null} */
  #loading = null
  /** Settles when stuck memory may be back. @type {Promise<unknown> | null} */
  #late = null
  #isUnloading = false
  /** Whether the model was unloaded since it was loaded. */
  #hasEnded = false
  /** Whether its library keeps memory: a load uses that again. */
  isKept = false

  /**
   * @param {Checked} definition
   * @param {import('../core/manager-handle.js').ManagerHandle} handle
   * @param {(error: unknown, output: string) => void} onDeath is called when the process of a loaded model ends
   */
  constructor(definition, handle, onDeath) {
    this.definition = definition
    this.name = definition.name
    this.#handle = handle
    const { load, unload, worker } = definition
    this.#engine = worker === null ? new InProcess(load, unload) : new InWorker(worker, this.name, onDeath)
    /** @type {any} */
    this.model = undefined
    this.isReady = false
    /** The error of the last load that failed. @type {import('../types/errors.js').MemoryError | undefined} */
    this.error = undefined
    /** Bytes of the last load. @type {number | null} */
    this.measured = null
    /** RAM that is resident for sure. */
    this.held = 0
    /** Bytes that did not come back. */
    this.stuck = NOTHING
    /** @type {number | null} */
    this.loadMs = null
    this.reserved = { npu: 0, system: 0, domains: /** @type {Map<number, number>} */ (new Map()) }
    /** The machine before its load. @type {ReturnType<typeof readMachine> | null} */
    this.before = null
    /** What the machine has taken since then. @type {import('../types/residency.js').MachineChange | undefined} */
    this.machine = undefined
  }

  /** Whether a load or an unload runs, or the model is loaded. */
  get isBusy() {
    return this.#loading !== null || this.isReady || this.#isUnloading
  }

  get pid() {
    return this.#engine.pid
  }

  /** The output of its process. */
  get output() {
    return this.#engine.output
  }

  /**
   * Loads the model. Rejects with the reason, and then `stuck` has what is not back.
   *
   * @param {number | null} domain
   * @param {Piece[]} pieces what it takes of each domain
   * @param {{ isWanted: () => boolean, tell: (progress: { bytes: number, ms: number }) => void }} listeners
   */
  async load(domain, pieces, { isWanted, tell }) {
    const { core, figures, loadTimeoutMs, path } = this.definition
    const { name } = this
    const engine = this.#engine
    const controller = new AbortController()
    const { isKept } = this
    const source = { pid: () => (engine.canEnd ? engine.pid : process.pid), isOwn: engine.canEnd, isWanted }
    const progress = new LoadProgress(path, source, tell)
    this.before = readMachine()
    this.machine = undefined
    this.#loading = controller
    this.#hasEnded = false
    this.isKept = false
    this.#late = null
    this.stuck = NOTHING
    this.#release()
    try {
      // The core's commands are carried out first.
      await null
      engine.begin(core.ram, isKept, this.#measured)
      this.#reserve(core, pieces)
      const { signal } = controller
      const report = (/** @type {number} */ bytes, /** @type {number} */ total) => progress.report(bytes, total)
      const work = engine.load({ name, domain, estimate: figures, signal, progress: report }, () => progress.begin())
      this.model = await this.#beforeDeadline(work, loadTimeoutMs, controller)
      this.isReady = true
    } catch (error) {
      if (engine.canEnd && !engine.isGone) this.#late = engine.gone
      if (this.#late === null) this.#release()
      else this.stuck = { ram: core.ram, npu: core.npu }
      throw error
    } finally {
      progress.end()
      engine.end()
      this.#loading = null
    }
  }

  /**
   * @template T
   * @param {Promise<T>} work
   * @param {number} ms
   * @param {AbortController} controller
   * @returns {Promise<T>}
   */
  #beforeDeadline(work, ms, controller) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        const hint = 'it was aborted, and its memory counts until it settles; raise loadTimeoutMs, or see its output'
        const error = memoryError('ERR_DEVICE_IO', `the load has not settled after ${ms} ms`, { hint })
        controller.abort(error)
        if (this.#engine.canEnd) return
        // The model that comes too late has no user.
        this.#late = work.then(
          (model) => this.#engine.unload(0, model, { name: this.name, reason: 'asked' }),
          () => {},
        )
        this.#late.catch(() => {})
        reject(error)
      }, ms)
      work.then(resolve, reject).finally(() => clearTimeout(timer))
    })
  }

  /** Aborts the load: no request waits for it. */
  cancelLoad() {
    this.#loading?.abort(memoryError('ERR_POOL_BUSY', 'no request waits for this load any more'))
  }

  /**
   * Unloads the model. Resolves with the error of an unload that failed; `stuck` then has the bytes that are not back.
   *
   * @param {EvictionReason} reason
   * @returns {Promise<{ error: unknown } | undefined>}
   */
  async unload(reason) {
    const { definition } = this
    const engine = this.#engine
    this.isReady = false
    this.#isUnloading = true
    try {
      await null
      await this.#end(reason)
      // No frame has the model any more, so that the collector may take it.
      const kept = await engine.awaitReturn()
      if (kept > 0) this.#keep(kept)
      else this.#gone()
    } catch (error) {
      if (engine.isGone) {
        this.#gone()
      } else {
        this.stuck = { ram: definition.core.ram, npu: definition.core.npu }
        this.#late = engine.gone
      }
      return { error }
    } finally {
      this.machine = this.before === null ? undefined : machineChange(this.before, readMachine())
      this.#isUnloading = false
    }
    return undefined
  }

  /** @param {EvictionReason} reason */
  async #end(reason) {
    if (this.#hasEnded) return
    await this.#engine.unload(this.held, this.model, { name: this.name, reason })
    this.model = undefined
    this.#hasEnded = true
  }

  /**
   * The model has ended, and the process has kept a part of its memory.
   *
   * @param {number} bytes
   */
  #keep(bytes) {
    const { ram, npu } = this.definition.core
    this.stuck = { ram: bytes, npu: Math.min(npu, bytes) }
    this.#late = new Promise((resolve) => {
      const timer = setInterval(() => {
        if (this.isKept && this.#engine.kept() > 0) return
        clearInterval(timer)
        resolve(undefined)
      }, RETURN_MS)
      timer.unref()
    })
    this.isKept = true
    // The rest is back.
    this.held = Math.min(bytes, ram)
  }

  /** Resolves when stuck memory may be back: a load that was given up on, or a process, has ended. */
  async recovered() {
    const late = this.#late
    await late?.catch(() => {})
    // A load that has begun since then uses the memory.
    if (late === null || this.#late !== late) return false
    this.#gone()
    return true
  }

  #gone() {
    this.model = undefined
    this.isKept = false
    this.#late = null
    this.stuck = NOTHING
    this.#release()
  }

  #measured = (/** @type {import('./own-memory.js').Measured | null} */ measured) => {
    if (!this.isReady || measured === null) return
    this.measured = measured.bytes
    this.held = Math.min(measured.held, this.definition.core.ram)
  }

  /**
   * Reserves the model's bytes with the manager, whose own allocations then leave them alone.
   *
   * @param {Bytes} bytes
   * @param {Piece[]} pieces
   */
  #reserve({ ram, npu }, pieces) {
    const handle = this.#handle.open()
    const tag = `model:${this.name}`
    try {
      const inNpu = pieces.length > 0 ? pieces : [{ id: 0, bytes: npu }]
      for (const { id, bytes } of inNpu) {
        if (bytes === 0) continue
        this.#reservations.push(native.reserve(handle, true, bytes, tag, id))
        this.reserved.npu += bytes
        this.reserved.domains.set(id, (this.reserved.domains.get(id) ?? 0) + bytes)
      }
      if (ram > npu) {
        this.#reservations.push(native.reserve(handle, false, ram - npu, tag, undefined))
        this.reserved.system += ram - npu
      }
    } catch (error) {
      this.#release()
      throw error
    }
  }

  #release() {
    const handle = this.#handle.value
    if (handle !== 0) for (const id of this.#reservations) native.releaseReservation(handle, id)
    this.#reservations = []
    this.reserved = { npu: 0, system: 0, domains: new Map() }
    this.held = 0
  }
}

module.exports = { ModelEntry }
