'use strict'

// Where a model is loaded: in this process, or in a worker. A worker can be ended, and what is loaded here cannot.

const { factsOf } = require('../devices/doctor/facts.js')
const { makeReader } = require('../devices/doctor/reader.js')
const { onDemand } = require('../core/on-demand.js')
const { clearInterval, setInterval } = require('../core/runtime.js')
const { sampleOf } = require('../models/process-memory.js')
const { ownMemory } = require('./own-memory.js')

/**
 * @typedef {import('../types/residency.js').EvictionReason} EvictionReason
 * @typedef {import('../types/residency.js').ModelLoadContext} ModelLoadContext
 * @typedef {import('./workers/worker-process.js').WorkerOptions} WorkerOptions
 * @typedef {{ name: string, reason: EvictionReason }} UnloadContext
 * @typedef {import('./own-memory.js').Mark} Mark
 * @typedef {import('./own-memory.js').Measured} Measured
 *
 * @typedef {object} Engine
 * @property {boolean} canEnd whether an abort ends a load for certain
 * @property {number | null} pid
 * @property {string} output of its process
 * @property {(bytes: number, isKept: boolean, measured: (measured: Measured | null) => void) => void} begin before a
 *   load; `isKept`: memory of the model is there since its last unload, as `kept` tells
 * @property {(context: ModelLoadContext, begin: () => void) => Promise<any>} load calls `begin` when its process is
 *   there
 * @property {() => void} end after a load
 * @property {(held: number, model: any, context: UnloadContext) => Promise<void>} unload
 * @property {() => Promise<number>} awaitReturn waits for the memory; returns the bytes that are kept
 * @property {() => number} kept bytes that are not back now
 * @property {boolean} isGone whether the memory is back though the unload failed
 * @property {Promise<void>} gone resolves when it is back after all
 */

/** Memory that a library keeps is looked for so often while the model is loaded. */
const LOOK_MS = 1000

const workers = onDemand(() => require('./workers/worker-process.js'))

/** @implements {Engine} */
class InProcess {
  canEnd = false
  pid = null
  output = ''
  isGone = false
  /** @type {Promise<void>} */
  gone = new Promise(() => {})
  #load
  #unload
  /** @type {import('./own-memory.js').Change | null} */
  #change = null
  /** Before the unload. @type {Mark | null} */
  #mark = null
  /** After the load; null if that was not alone. @type {Mark | null} */
  #loaded = null
  /** Bytes that the library kept of the model before this load. */
  #carried = 0
  /** The most bytes that were lost since the load. */
  #lost = 0
  /** Bytes that the unload has to give back. */
  #owed = 0
  /** @type {any} */
  #timer

  /**
   * @param {(context: ModelLoadContext) => unknown} load
   * @param {(model: any, context: UnloadContext) => unknown} unload
   */
  constructor(load, unload) {
    this.#load = load
    this.#unload = unload
  }

  /**
   * @param {number} reserved
   * @param {boolean} isKept
   * @param {(measured: Measured | null) => void} measured
   */
  begin(reserved, isKept, measured) {
    clearInterval(this.#timer)
    this.#carried = isKept ? this.kept() : 0
    this.#change = { reserved, held: this.#carried, measured }
    ownMemory.begin(this.#change)
  }

  /**
   * @param {ModelLoadContext} context
   * @param {() => void} begin
   */
  async load(context, begin) {
    begin()
    try {
      return await this.#load(context)
    } catch (error) {
      this.#carried = 0
      throw error
    }
  }

  end() {
    if (this.#change !== null) ownMemory.end(this.#change)
    this.#change = null
    this.#loaded = ownMemory.isQuiet ? ownMemory.mark() : null
    this.#lost = 0
    if (this.#carried === 0) return
    this.#timer = setInterval(() => this.#look(), LOOK_MS)
    this.#timer.unref()
  }

  /**
   * Looks for bytes that the model has lost. Growth of other code may hide them later.
   *
   * @param {Mark} [mark] of the unload
   */
  #look(mark) {
    const lost = this.#loaded === null ? null : ownMemory.lostSince(this.#loaded, mark)
    if (lost === null) this.#loaded = null
    else this.#lost = Math.max(this.#lost, lost)
  }

  /**
   * Returns the bytes of `held` that the model still has before its unload. A model may drop its memory in use. Those
   * that its library kept before the load count only if nothing else was loaded or unloaded since then.
   *
   * @param {number} held
   * @param {Mark} mark
   */
  #owedOf(held, mark) {
    clearInterval(this.#timer)
    this.#look(mark)
    return Math.max(0, held - (this.#loaded === null ? this.#carried : this.#lost))
  }

  /**
   * @param {number} held
   * @param {any} model
   * @param {UnloadContext} context
   */
  async unload(held, model, context) {
    await ownMemory.settle(held)
    const change = { reserved: 0, held, measured: () => {} }
    ownMemory.begin(change)
    this.#mark = ownMemory.mark()
    this.#owed = this.#owedOf(held, this.#mark)
    try {
      await this.#unload(model, context)
    } finally {
      ownMemory.end(change)
    }
  }

  async awaitReturn() {
    return this.#mark === null ? 0 : ownMemory.awaitReturn(this.#owed, this.#mark)
  }

  kept() {
    return this.#mark === null ? 0 : ownMemory.keptOf(this.#owed, this.#mark)
  }
}

/** @implements {Engine} */
class InWorker {
  canEnd = true
  /** @type {(measured: Measured | null) => void} */
  #measured = () => {}
  #options
  #name
  #onDeath
  /** @type {import('./workers/worker-process.js').WorkerProcess | null} */
  #worker = null
  /** @type {string[] | undefined} */
  #nodes

  /**
   * @param {WorkerOptions} options
   * @param {string} name
   * @param {(error: unknown, output: string) => void} onDeath
   */
  constructor(options, name, onDeath) {
    this.#options = options
    this.#name = name
    this.#onDeath = onDeath
  }

  get pid() {
    return this.#worker?.pid ?? null
  }

  get output() {
    return this.#worker?.output ?? ''
  }

  get isGone() {
    return this.pid === null
  }

  get gone() {
    return this.#worker?.exited ?? Promise.resolve()
  }

  /**
   * @param {number} _reserved
   * @param {boolean} _isKept
   * @param {(measured: Measured | null) => void} measured
   */
  begin(_reserved, _isKept, measured) {
    this.#measured = measured
  }

  /**
   * @param {ModelLoadContext} context
   * @param {() => void} begin
   */
  async load(context, begin) {
    const { WorkerProcess } = workers()
    const worker = new WorkerProcess(this.#options, this.#name, this.#onDeath)
    this.#worker = worker
    return worker.load(/** @type {any} */ (context), begin)
  }

  end() {
    const { pid } = this
    if (pid === null) return
    const reader = makeReader()
    this.#nodes ??= factsOf(reader).nodes.map(({ path }) => path)
    const sample = sampleOf(reader, pid, this.#nodes)
    this.#measured(sample === null ? null : { bytes: sample.footprint, held: sample.footprint - sample.file })
  }

  /**
   * @param {number} _held
   * @param {any} _model
   * @param {UnloadContext} context
   */
  async unload(_held, _model, context) {
    await this.#worker?.unload(context)
  }

  /** The memory of a process is back when the process is gone, which `unload` has waited for. */
  async awaitReturn() {
    return 0
  }

  kept() {
    return 0
  }
}

module.exports = { InProcess, InWorker }
