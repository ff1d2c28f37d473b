'use strict'

// The shell of the core: gives it events with a time, carries out its commands, and keeps the time at which it has
// something to do.
//
// No function of the caller runs inside a core's event: loads and unloads start in a later microtask, listeners in the
// next tick.

const { now, nextTick } = require('../core/runtime.js')
const { ResidencyCore } = require('./core/residency.js')
const { Grant } = require('./lease.js')
const { Machine } = require('./machine.js')
const { ModelEntry } = require('./model-entry.js')
const refusals = require('./refusals.js')
const { Requests } = require('./requests.js')
const { WakeTimer } = require('./wake-timer.js')

/** While a model waits for memory, the machine's figures are read so often. */
const POLL_MS = 250

/**
 * @typedef {import('./options.js').Checked} Checked
 * @typedef {import('./core/model.js').Command} Command
 * @typedef {import('../types/residency.js').EvictionReason} EvictionReason
 * @typedef {import('../types/residency.js').ModelEvent} ModelEvent
 */

class Shell {
  #core
  #keepFree
  #machine
  /** @type {Map<string, ModelEntry>} */
  #entries = new Map()
  #requests = new Requests()
  #listeners
  #isClosed = false
  #timer = new WakeTimer(() => {
    if (this.#requests.waiting > 0) this.#readMachine()
    this.#perform(this.#core.tick(now()))
  })
  /** Called after each event, until it returns true. @type {Set<() => boolean>} */
  #watchers = new Set()

  /**
   * @param {object} parts
   * @param {import('../core/manager-handle.js').ManagerHandle} parts.handle
   * @param {import('../types/devices.js').DeviceInfo} parts.device
   * @param {{ emit: (name: string, event: ModelEvent) => void, wants: (name: string) => boolean }} listeners
   * @param {ReturnType<typeof import('./options.js').residencyOptions>} options
   */
  constructor({ handle, device }, listeners, { models, limits, keepFree, policy }) {
    this.#listeners = listeners
    this.#keepFree = keepFree
    this.#machine = new Machine(handle, device, { limits, keepFree })
    for (const model of models) {
      const { name } = model
      this.#entries.set(name, new ModelEntry(model, handle, (error, output) => this.#died(name, error, output)))
    }
    const { ram, npu, domains } = this.#machine.room(this.#ours())
    this.#core = new ResidencyCore({ models: models.map(({ core }) => core), ram, npu, domains, policy })
  }

  get names() {
    return [...this.#entries.keys()]
  }

  get closed() {
    return this.#isClosed
  }

  /** @param {string} name */
  has(name) {
    return this.#entries.has(name)
  }

  /**
   * Asks for a lease, or for a load without one. Returns the lease if the model is loaded and free, else a promise.
   *
   * @param {string} name
   * @param {{ signal?: AbortSignal, timeoutMs?: number, priority?: number }} options
   * @param {boolean} [preload]
   * @returns {Grant | true | Promise<any>}
   */
  ask(name, { signal, timeoutMs = Infinity, priority = 0 }, preload = false) {
    if (this.#isClosed) throw refusals.closed()
    if (signal?.aborted) throw signal.reason
    const entry = this.#entryOf(name)
    const { id, request } = this.#requests.add(timeoutMs)
    // Reading the machine's figures costs more than a lease of a loaded model.
    if (!entry.isReady) this.#readMachine()
    // The library that keeps its memory uses it for the next load.
    if (entry.isKept) this.#perform(this.#core.recovered(name, now()))
    const time = now()
    const event = { id, name, now: time, deadline: time + timeoutMs, priority }
    const start = () => this.#perform(preload ? this.#core.preload(event) : this.#core.request(event))
    if (signal === undefined && timeoutMs > 0) {
      start()
      if (request.result !== null) return request.result
      if (request.error !== null) throw request.error
      return new Promise((resolve, reject) => Object.assign(request, { resolve, reject }))
    }
    return this.#requests.askCancellably(request, signal, start, () => this.#perform(this.#core.cancel(id, now())))
  }

  /**
   * Ends a lease. Idempotent.
   *
   * @param {number} id
   */
  #release(id) {
    if (!this.#requests.release(id)) return
    if (this.#requests.waiting > 0) this.#readMachine()
    this.#perform(this.#core.release(id, now()))
  }

  /**
   * @param {string} name
   * @param {{ force?: boolean }} options
   */
  evict(name, { force = false }) {
    const entry = this.#entryOf(name)
    const { state, leases, waiting } = this.#statsOf(name)
    if (!force && (leases > 0 || waiting > 0)) throw refusals.busy(name, leases, waiting)
    if (state === 'stuck') return this.#unloadAgain(entry)
    if (state === 'cold' || state === 'failed') return undefined
    this.#perform(this.#core.evict(name, now(), 'asked', { force }))
    // A load that was cancelled settles in its own time.
    return this.#until(() => !entry.isBusy)
  }

  /**
   * Tries an unload that failed once more.
   *
   * @param {ModelEntry} entry
   */
  async #unloadAgain(entry) {
    const failure = await entry.unload('asked')
    if (failure !== undefined) throw refusals.unloadFailed(entry.name, failure.error)
    if (entry.isKept) throw refusals.kept(entry.name, entry.stuck.ram)
    this.#after(() => this.#core.recovered(entry.name, now()))
  }

  /** @param {string[]} names */
  plan(names) {
    for (const name of names) this.#entryOf(name)
    this.#readMachine()
    return this.#core.plan(names, now())
  }

  stats() {
    this.#readMachine()
    const { ram, domains } = this.#core.stats()
    return { ram, domains, models: this.modelStats(), waiting: this.#requests.waiting }
  }

  /** @returns {import('../types/residency.js').ModelStats[]} */
  modelStats() {
    const time = now()
    return this.#core.stats().models.map((model) => {
      const entry = /** @type {ModelEntry} */ (this.#entries.get(model.name))
      const { name, state, domain, reserved, leases, waiting, loads, evictions, idleSince } = model
      return {
        name,
        state,
        domain,
        bytes: {
          estimated: entry.definition.figures.full,
          reserved: reserved.ram,
          measured: entry.measured,
          stuck: state === 'stuck' ? reserved.ram : 0,
        },
        leases,
        waiting,
        idleMs: idleSince === null ? null : time - idleSince,
        loads,
        evictions,
        loadMs: entry.loadMs,
        pid: entry.pid,
      }
    })
  }

  /**
   * The kernel reports memory pressure: idle models go, until `keepFree` is free, and at least one.
   *
   * @param {string} level
   * @param {number} available
   */
  pressure(level, available) {
    const bytes = level === 'full' ? Infinity : Math.max(1, this.#keepFree - available)
    this.#perform(this.#core.pressure(bytes, now()))
  }

  /** Refuses requests, waits for leases to end, and unloads all models. */
  async close() {
    this.#refuseAll()
    this.#requests.warnLeases(refusals.closed())
    for (const name of this.names) this.#perform(this.#core.evict(name, now(), 'closed', { drain: true }))
    await this.#until(() => this.#requests.leases === 0 && [...this.#entries.values()].every(({ isBusy }) => !isBusy))
    this.#timer.end()
  }

  /** Ends without waiting: the manager is being disposed. */
  abandon() {
    this.#refuseAll()
    this.#requests.endLeases(refusals.closed())
    for (const name of this.names) this.#perform(this.#core.evict(name, now(), 'closed', { force: true }))
    this.#timer.end()
  }

  #refuseAll() {
    this.#isClosed = true
    this.#requests.refuseWaiting(refusals.closed(), (id) => this.#perform(this.#core.cancel(id, now())))
  }

  /**
   * @param {string} name
   * @returns {ModelEntry}
   */
  #entryOf(name) {
    return /** @type {ModelEntry} */ (this.#entries.get(name))
  }

  /** @param {string} name */
  #statsOf(name) {
    const found = this.#core.stats().models.find((model) => model.name === name)
    return /** @type {NonNullable<typeof found>} */ (found)
  }

  /** @param {() => boolean} done */
  #until(done) {
    if (done()) return Promise.resolve()
    return new Promise((resolve) => {
      this.#watchers.add(() => {
        if (!done()) return false
        resolve(undefined)
        return true
      })
    })
  }

  /** What the models have of RAM and of the manager's reservations. */
  #ours() {
    const ours = { held: 0, npu: 0, taken: 0, domains: new Map() }
    for (const entry of this.#entries.values()) {
      ours.held += entry.held
      ours.npu += entry.reserved.npu
      ours.taken += entry.reserved.npu + entry.reserved.system
      for (const [id, bytes] of entry.reserved.domains) ours.domains.set(id, (ours.domains.get(id) ?? 0) + bytes)
    }
    return ours
  }

  #readMachine() {
    if (this.#machine.isOpen) this.#perform(this.#core.setRoom(this.#machine.room(this.#ours()), now()))
  }

  /**
   * Gives the core an event at which memory may have come free.
   *
   * @param {() => Command[]} event
   */
  #after(event) {
    this.#perform(event())
    if (this.#requests.waiting > 0) this.#readMachine()
  }

  /** @param {Command[]} commands */
  #perform(commands) {
    for (const command of commands) {
      const entry = this.#entryOf(command.name)
      if (command.type === 'load') this.#load(entry, command.domain, command.pieces)
      else if (command.type === 'unload') this.#unload(entry, /** @type {EvictionReason} */ (command.reason))
      else if (command.type === 'cancel-load') entry.cancelLoad()
      else if (command.type === 'reject')
        this.#requests.refuse(command.id, (timeoutMs) => this.#errorOf(entry, command.reason, timeoutMs))
      else if (command.type === 'grant') this.#requests.serve(command.id, this.#grantOf(entry, command.id))
      else this.#requests.serve(command.id, true)
    }
    const waits = this.#requests.waiting > 0
    // A keep-alive keeps no process alive; a request that waits does.
    this.#timer.arm(Math.min(this.#core.wakeAt, waits ? now() + POLL_MS : Infinity), waits)
    for (const watcher of this.#watchers) if (watcher()) this.#watchers.delete(watcher)
  }

  /**
   * @param {ModelEntry} entry
   * @param {number} id
   */
  #grantOf({ name, model }, id) {
    return new Grant(name, model, () => this.#release(id))
  }

  /**
   * @param {ModelEntry} entry
   * @param {string} reason
   * @param {number} timeoutMs
   */
  #errorOf({ name, definition, error }, reason, timeoutMs) {
    const stats = this.#core.stats()
    switch (reason) {
      case 'never-fits': {
        const stay = stats.models.filter((other) => other.name !== name && this.#isHeld(other))
        return refusals.neverFits(definition.core, stats, stay)
      }
      case 'deadline':
        return refusals.timedOut(definition.core, timeoutMs, stats)
      case 'failed':
        return error
      case 'evicted':
        return refusals.died(name, 'it was evicted by force')
      default:
        return error ?? refusals.died(name, 'its engine ended')
    }
  }

  /** @param {{ name: string, state: string }} model */
  #isHeld({ name, state }) {
    return this.#entryOf(name).definition.core.pinned === true && (state === 'ready' || state === 'loading')
  }

  /**
   * @param {ModelEntry} entry
   * @param {number | null} domain
   * @param {{ id: number, bytes: number }[]} pieces
   */
  #load(entry, domain, pieces) {
    const { name } = entry
    const began = now()
    const progress = {
      isWanted: () => this.#listeners.wants('progress'),
      tell: (/** @type {{ bytes: number, ms: number }} */ read) => this.#tell('progress', { name, ...read }),
    }
    entry
      .load(domain, pieces, progress)
      .then(() => {
        const ms = now() - began
        entry.loadMs = ms
        this.#tell('ready', { name, ms, bytes: entry.measured ?? undefined })
        this.#after(() => this.#core.loaded(name, now(), ms))
      })
      .catch((cause) => {
        entry.error = refusals.loadFailed(name, cause, entry.output)
        this.#tell('fail', { name, error: entry.error })
        const how = { retry: entry.stuck.ram === 0, lacks: refusals.lackOf(entry.error, cause) }
        this.#after(() => this.#core.loadFailed(name, now(), entry.stuck, how))
        this.#watchStuck(entry)
      })
    this.#tell('load', { name, bytes: entry.definition.core.ram })
  }

  /**
   * @param {ModelEntry} entry
   * @param {EvictionReason} reason
   */
  #unload(entry, reason) {
    const { name } = entry
    const began = now()
    this.#tell('evict', { name, reason })
    entry.unload(reason).then((failure) => {
      if (failure !== undefined)
        this.#tell('fail', { name, reason, error: refusals.unloadFailed(name, failure.error) })
      else if (!entry.isKept) this.#tell('gone', { name, reason, ms: now() - began, machine: entry.machine })
      this.#after(() => this.#core.unloaded(name, now(), entry.stuck))
      this.#watchStuck(entry)
    })
  }

  /**
   * The process of a loaded model ended.
   *
   * @param {string} name
   * @param {unknown} cause
   * @param {string} output
   */
  #died(name, cause, output) {
    const entry = this.#entryOf(name)
    entry.error = refusals.ended(name, cause, output)
    this.#tell('fail', { name, reason: 'died', error: entry.error })
    this.#after(() => this.#core.died(name, now()))
  }

  /**
   * Tells of memory that did not come back, and waits for it.
   *
   * @param {ModelEntry} entry
   */
  #watchStuck(entry) {
    const { name, stuck, definition, machine } = entry
    if (stuck.ram === 0 && stuck.npu === 0) return
    const keptBy = definition.worker === null ? 'library' : 'kernel'
    this.#tell('stuck', { name, bytes: stuck.ram, keptBy, ...(machine && { machine }) })
    entry.recovered().then((isBack) => {
      if (isBack) this.#after(() => this.#core.recovered(name, now(), entry.stuck))
    })
  }

  /**
   * @param {string} event
   * @param {ModelEvent} payload
   */
  #tell(event, payload) {
    nextTick(() => this.#listeners.emit(event, payload))
  }
}

module.exports = { Shell }
