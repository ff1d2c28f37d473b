'use strict'

// Where a model is loaded: in this process, or in a worker. A worker can be ended, and what is loaded here cannot.

const { factsOf } = require('../devices/doctor/facts.js')
const { makeReader } = require('../devices/doctor/reader.js')
const { onDemand } = require('../core/on-demand.js')
const { sampleOf } = require('../models/process-memory.js')
const { ownMemory } = require('./own-memory.js')

/**
 * @typedef {import('../types/residency.js').EvictionReason} EvictionReason
 * @typedef {import('../types/residency.js').ModelLoadContext} ModelLoadContext
 * @typedef {import('./workers/worker-process.js').WorkerOptions} WorkerOptions
 * @typedef {{ name: string, reason: EvictionReason }} UnloadContext
 * @typedef {{ bytes: number, held: number }} Measured bytes of a model, and those that the kernel cannot take back
 *
 * @typedef {object} Engine
 * @property {boolean} canEnd whether an abort ends a load for certain
 * @property {number | null} pid
 * @property {string} output of its process
 * @property {(bytes: number, measured: (measured: Measured | null) => void) => void} begin before a load
 * @property {(context: ModelLoadContext) => Promise<any>} load
 * @property {() => void} end after a load
 * @property {(held: number, model: any, context: UnloadContext) => Promise<void>} unload
 * @property {(held: number) => Promise<number>} awaitReturn waits for the memory; returns the bytes that are kept
 * @property {(held: number) => number} kept bytes that are not back now
 * @property {boolean} isGone whether the memory is back though the unload failed
 * @property {Promise<void>} gone resolves when it is back after all
 */

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
  /** @type {ReturnType<typeof ownMemory.mark> | null} */
  #mark = null

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
   * @param {(measured: Measured | null) => void} measured
   */
  begin(reserved, measured) {
    this.#change = { reserved, held: 0, measured }
    ownMemory.begin(this.#change)
  }

  /** @param {ModelLoadContext} context */
  async load(context) {
    return this.#load(context)
  }

  end() {
    if (this.#change !== null) ownMemory.end(this.#change)
    this.#change = null
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
    try {
      await this.#unload(model, context)
    } finally {
      ownMemory.end(change)
    }
  }

  /** @param {number} held */
  async awaitReturn(held) {
    return this.#mark === null ? 0 : ownMemory.awaitReturn(held, this.#mark)
  }

  /** @param {number} held */
  kept(held) {
    return this.#mark === null ? 0 : ownMemory.keptOf(held, this.#mark)
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
   * @param {(measured: Measured | null) => void} measured
   */
  begin(_reserved, measured) {
    this.#measured = measured
  }

  /** @param {ModelLoadContext} context */
  async load(context) {
    const { WorkerProcess } = workers()
    const worker = new WorkerProcess(this.#options, this.#name, this.#onDeath)
    this.#worker = worker
    return worker.load(/** @type {any} */ (context))
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
