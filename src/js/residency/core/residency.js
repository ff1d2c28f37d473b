'use strict'

// The state machine of resident models: events with a time go in, commands come out. Pure: no clock, no process, no
// I/O. A caller applies an event, carries out the commands, and calls `tick` at `wakeAt`.

const { admit, maySee, planTogether } = require('./admission.js')
const { figuresOf } = require('./figures.js')
const { Layout, shares } = require('./layout.js')
const { LoadTimes } = require('./load-times.js')
const { Model, compare, first, firstOf, isHeld, isIdle } = require('./model.js')
const { POLICIES, recordUse } = require('./policy.js')
const { victimsForBytes, victimsForRetry, victimsToFit } = require('./shortage.js')
const { Transitions } = require('./transitions.js')

/**
 * @typedef {import('./model.js').Definition} Definition
 * @typedef {import('./model.js').Request} Request
 * @typedef {import('./model.js').Bytes} Bytes
 * @typedef {import('./layout.js').Domain} Domain
 * @typedef {import('./layout.js').Room} Room
 * @typedef {import('./policy.js').Policy<Model>} Policy
 *
 * @typedef {{ id: number, name: string, now: number, deadline?: number, priority?: number }} RequestEvent
 */

class ResidencyCore {
  /** @type {Map<string, Model>} */
  #models = new Map()
  /** @type {Room} */
  #room
  #transitions = new Transitions()
  #loadTimes = new LoadTimes()
  /** @type {Policy} */
  #policy
  #guardEnd = Infinity
  /** @type {Map<Model, Model[]>} the ready models that queued ones wait for */
  #claims = new Map()
  /** Whether more may be reserved than there is, since a model turned out to be larger. */
  #isOver = false

  /**
   * @param {{
   *   models: Definition[], ram: number, npu?: number, domains?: Domain[], policy?: 'cost' | 'lru' | Policy
   * }} options `npu` bounds the bytes of all domains together
   */
  constructor({ models, ram, npu = Infinity, domains = [], policy = 'cost' }) {
    for (const definition of models) this.#models.set(definition.name, new Model(definition))
    this.#room = { ram, npu, domains, others: { ram: 0, npu: 0, domains: new Map() } }
    this.#policy = typeof policy === 'string' ? POLICIES[policy] : policy
    this.#loadTimes.expect(this.#models.values())
  }

  /** @param {RequestEvent} request */
  request(request) {
    return this.#ask(request, false)
  }

  /**
   * Loads a model without a lease. The command `preloaded` ends the request.
   *
   * @param {RequestEvent} request
   */
  preload(request) {
    return this.#ask(request, true)
  }

  /**
   * Ends a waiting request, or a lease. Ignores an unknown id, such as one that was rejected.
   *
   * @param {number} id
   * @param {number} now
   */
  cancel(id, now) {
    const model = this.#transitions.ownerOf(id)
    if (model === undefined) return this.tick(now)
    if (model.leases.has(id)) return this.release(id, now)
    this.#transitions.reject(model, (request) => request.id === id, 'cancelled')
    return this.tick(now)
  }

  /**
   * @param {number} id
   * @param {number} now
   */
  release(id, now) {
    this.#transitions.release(id, now)
    return this.tick(now)
  }

  /**
   * @param {string} name
   * @param {number} now
   * @param {number} ms
   */
  loaded(name, now, ms) {
    const model = this.#modelOf(name)
    if (model.state !== 'loading') return this.tick(now)
    this.#loadTimes.learn(model, ms)
    model.loads += 1
    model.idleSince = now
    model.readyAt = now
    model.retried = false
    model.awaits = []
    model.state = 'ready'
    this.#loadTimes.expect(this.#models.values())
    // The load won the race against its cancellation.
    if (model.cancelling && model.waiting.length === 0) this.#transitions.unload(model, 'asked')
    model.cancelling = false
    return this.tick(now)
  }

  /**
   * A load failed or was cancelled. `stuck` bytes have not come back. Unless `retry` is false, idle models go, and the
   * load is tried again, once. `lacks` are the bytes that it did not get, 0 if it failed for something else: models
   * may allocate beside what they reserve, so that idle ones go for it even if all of them seem to fit.
   *
   * @param {string} name
   * @param {number} now
   * @param {Bytes} [stuck]
   * @param {{ retry?: boolean, lacks?: number }} [options]
   */
  loadFailed(name, now, stuck = { ram: 0, npu: 0 }, { retry = true, lacks = 0 } = {}) {
    const model = this.#modelOf(name)
    if (model.state !== 'loading') return this.tick(now)
    const isFinal = !model.cancelling && (model.retried || !retry)
    if (isFinal) this.#transitions.reject(model, () => true, 'failed')
    this.#transitions.end(model, stuck, isFinal ? 'failed' : 'cold')
    model.retried = !model.cancelling && !isFinal
    const isTried = model.retried && model.waiting.length > 0
    model.awaits = isTried ? this.#evict(victimsForRetry(this.#ground(now), model, lacks), 'room') : []
    model.cancelling = false
    return this.tick(now)
  }

  /**
   * An unload ended. `stuck` bytes have not come back.
   *
   * @param {string} name
   * @param {number} now
   * @param {Bytes} [stuck]
   */
  unloaded(name, now, stuck = { ram: 0, npu: 0 }) {
    const model = this.#modelOf(name)
    if (model.state === 'unloading') this.#transitions.end(model, stuck, 'cold')
    return this.tick(now)
  }

  /**
   * Memory of a stuck model came back: all of it, or all but `stuck`.
   *
   * @param {string} name
   * @param {number} now
   * @param {Bytes} [stuck]
   */
  recovered(name, now, stuck = { ram: 0, npu: 0 }) {
    const model = this.#modelOf(name)
    if (model.state === 'stuck') this.#transitions.end(model, stuck, 'cold')
    return this.tick(now)
  }

  /**
   * The engine ended by itself: its leases are lost, and its memory counts until `unloaded`.
   *
   * @param {string} name
   * @param {number} now
   */
  died(name, now) {
    const model = this.#modelOf(name)
    if (model.state !== 'ready') return this.tick(now)
    this.#transitions.endLeases(model, 'died')
    this.#transitions.unload(model, 'died')
    return this.tick(now)
  }

  /**
   * Unloads an idle model. With `drain` a busy one goes once its leases have ended. With `force` leases and waiting
   * requests are rejected, and a load is cancelled.
   *
   * @param {string} name
   * @param {number} now
   * @param {string} [reason]
   * @param {{ drain?: boolean, force?: boolean }} [options]
   */
  evict(name, now, reason = 'asked', { drain = false, force = false } = {}) {
    const model = this.#modelOf(name)
    if (force) {
      this.#transitions.reject(model, () => true, 'evicted')
      this.#transitions.endLeases(model, 'evicted')
    }
    if (isIdle(model)) this.#transitions.unload(model, reason)
    else if (drain && model.state === 'ready') model.draining = reason
    return this.tick(now)
  }

  /**
   * Unloads idle models until so many bytes of RAM are on their way back, or all idle ones. Those that are being
   * unloaded count.
   *
   * @param {number} bytes
   * @param {number} now
   */
  pressure(bytes, now) {
    this.#evict(victimsForBytes(this.#ground(now), bytes), 'pressure')
    return this.tick(now)
  }

  /**
   * Takes new figures of the machine. Models that are loaded stay; what others hold delays loads, and refuses none.
   *
   * @param {Room} room
   * @param {number} now
   */
  setRoom(room, now) {
    this.#room = room
    return this.tick(now)
  }

  /**
   * Changes how many bytes a model takes, as measured: at once if it is loaded, and at its next loads.
   *
   * @param {string} name
   * @param {Bytes} bytes
   * @param {number} now
   */
  measured(name, bytes, now) {
    const model = this.#modelOf(name)
    model.measured = { ...bytes }
    if (model.state === 'ready') {
      const [piece] = model.pieces
      if (model.pieces.length === 1) model.pieces = [{ id: piece.id, bytes: bytes.npu }]
      else if (model.pieces.length > 1) model.pieces = shares(model.pieces, bytes.npu)
      model.reserved = { ...bytes }
    }
    model.ram = bytes.ram
    model.npu = bytes.npu
    this.#isOver = true
    this.#loadTimes.expect(this.#models.values())
    return this.tick(now)
  }

  /**
   * Plans to have models in memory together: which go, and where those are or will be that were named. Null if they
   * can never be together. Changes nothing.
   *
   * @param {string[]} names
   * @param {number} now
   */
  plan(names, now) {
    const wanted = [...new Set(names)].map((name) => this.#modelOf(name))
    const plan = planTogether({ ...this.#ground(now), wanted })
    if (plan === null) return null
    return {
      evict: plan.evict.map(({ name }) => name),
      placements: wanted.map((model) => {
        const domain = plan.places.get(model)
        const { name, npu, ram } = model
        return { model: name, domain: domain === undefined ? model.domain : domain, bytes: npu, ram }
      }),
    }
  }

  /**
   * Does what is due, and returns the commands.
   *
   * @param {number} now
   */
  tick(now) {
    // A grant or an unload changes what queued models may do.
    let before = -1
    while (this.#transitions.count > before) {
      before = this.#transitions.count
      if (!this.#pass(now)) break
    }
    return this.#transitions.take()
  }

  /** Does what is due once. Returns whether another pass may find more. @param {number} now */
  #pass(now) {
    let isQueued = false
    /** @type {Layout | undefined} */
    let bare
    for (const model of this.#models.values()) {
      this.#transitions.reject(model, (request) => request.deadline <= now, 'deadline')
      if (model.state === 'queued' && (bare ??= this.#bareLayout()).domainsFor(model).length === 0)
        this.#transitions.reject(model, () => true, 'never-fits')
      if (model.state === 'loading' && !model.cancelling && model.waiting.length === 0)
        this.#transitions.cancelLoad(model)
      if (model.draining !== null && model.leases.size === 0) this.#transitions.unload(model, model.draining)
      isQueued ||= model.state === 'queued'
    }
    if (this.#isOver) this.#fitLimits(now)
    const going = isQueued ? this.#admit(now) : new Map()
    if (!isQueued) this.#guardEnd = Infinity
    for (const model of this.#models.values()) {
      this.#grant(model, now, going.get(model))
      if (isIdle(model) && !model.pinned && now >= model.idleSince + model.keepAliveMs)
        this.#transitions.unload(model, 'idle')
    }
    return isQueued || this.#isOver
  }

  /** The time at which `tick` has something to do though no event came; Infinity without one. */
  get wakeAt() {
    let at = this.#guardEnd
    for (const model of this.#models.values()) {
      for (const { deadline } of model.waiting) at = Math.min(at, deadline)
      if (isIdle(model) && !model.pinned) at = Math.min(at, model.idleSince + model.keepAliveMs)
    }
    return at
  }

  /** Figures of every model, and reserved bytes. Those of RAM and domains contain what is stuck. */
  stats() {
    return figuresOf([...this.#models.values()], this.#room)
  }

  /** @param {string} name */
  #modelOf(name) {
    const model = this.#models.get(name)
    if (model === undefined) throw new RangeError(`no model is called ${JSON.stringify(name)}`)
    return model
  }

  /**
   * @param {RequestEvent} request
   * @param {boolean} preload
   */
  #ask({ id, name, now, deadline = Infinity, priority = 0 }, preload) {
    const model = this.#modelOf(name)
    this.#transitions.enqueue(model, { id, at: now, deadline, priority, preload })
    recordUse(model, now)
    return this.tick(now)
  }

  /**
   * @param {number} now
   * @param {boolean} [withOthers] whether the bytes of others are taken
   */
  #ground(now, withOthers = true) {
    const models = [...this.#models.values()]
    const { costOf, ordered } = this.#policy
    return {
      models,
      layout: Layout.of(models, this.#room, withOthers),
      now,
      costOf: (/** @type {Model} */ model) => costOf(model, now),
      ordered,
    }
  }

  /**
   * Loads queued models, and unloads those that go for them. Returns the busy ones that have to go.
   *
   * @param {number} now
   */
  #admit(now) {
    const ground = this.#ground(now)
    const queue = ground.models
      .filter(({ state }) => state === 'queued')
      .sort((a, b) => compare(first(a), first(b)))
    const { loads, evictions, going, claims, wakeAt } = admit({ ...ground, queue, claims: this.#claims })
    this.#claims = claims
    this.#evict(evictions, 'room')
    for (const { model, domain } of loads) this.#load(model, domain, ground.layout)
    this.#guardEnd = wakeAt
    return going
  }

  /**
   * Gives leases to waiting requests. A model that has to go serves only requests that may overtake the one that
   * waits for its memory.
   *
   * @param {Model} model
   * @param {number} now
   * @param {Request | undefined} since
   */
  #grant(model, now, since) {
    if (model.state !== 'ready') return
    for (const { id } of model.waiting.filter(({ preload }) => preload)) {
      model.idleSince = now
      this.#transitions.finishPreload(model, id)
    }
    while (model.draining === null && model.leases.size < model.concurrency) {
      const next = firstOf(model.waiting.filter((request) => since === undefined || maySee(model, request, since)))
      if (next === undefined) return
      this.#transitions.grant(model, next.id)
    }
  }

  /** The layout once all models are gone but those that are pinned, and no other program holds anything. */
  #bareLayout() {
    const models = [...this.#models.values()]
    return Layout.of(models.filter(isHeld), this.#room, false, models)
  }

  /**
   * Unloads models. Returns them.
   *
   * @template {Iterable<Model>} Victims
   * @param {Victims} victims
   * @param {string} reason
   */
  #evict(victims, reason) {
    for (const victim of victims) this.#transitions.unload(victim, reason)
    return victims
  }

  /** Unloads idle models while more is reserved than there is. @param {number} now */
  #fitLimits(now) {
    const victims = victimsToFit(this.#ground(now, false))
    this.#isOver = victims !== null
    this.#evict(victims ?? [], 'pressure')
  }

  /**
   * @param {Model} model
   * @param {number | null} domain
   * @param {Layout} layout
   */
  #load(model, domain, layout) {
    this.#loadTimes.begin(model, [...this.#models.values()].filter(({ state }) => state === 'loading'))
    this.#transitions.load(model, domain, layout.piecesAt(model, domain) ?? [])
  }
}

module.exports = { ResidencyCore }
