'use strict'

// The state machine of resident models: events with a time go in, commands come out. Pure: no clock, no process, no
// I/O. A caller applies an event, carries out the commands, and calls `tick` at `wakeAt`.

const { VALUES, age, pickVictims, recordUse } = require('./policy.js')

/** A priority is worth so much waiting. */
const AGING_MS = 30_000
/** The load time of a model that was never loaded, by byte: an eMMC's 200 MB/s. */
const MS_PER_BYTE = 1 / 200_000

/**
 * @typedef {'cold' | 'queued' | 'loading' | 'ready' | 'unloading' | 'stuck' | 'failed'} State
 * @typedef {{ id: number, at: number, deadline: number, priority: number }} Request
 *
 * @typedef {object} Definition
 * @property {string} name
 * @property {number} ram bytes
 * @property {number} npu bytes in its domain
 * @property {number | null} [domain] the only domain it may have
 * @property {number} [keepAliveMs]
 * @property {number} [priority]
 * @property {boolean} [pinned]
 * @property {number} [concurrency]
 *
 * @typedef {{ id: number, limit: number }} Domain
 *
 * @typedef {object} Room bytes in all, and those that others than these models hold
 * @property {number} ram
 * @property {number} npu
 * @property {Domain[]} domains
 * @property {{ ram: number, npu: number, domains: Map<number, number> }} others
 *
 * @typedef {{ type: 'load', name: string, domain: number | null }
 *   | { type: 'cancel-load', name: string }
 *   | { type: 'unload', name: string, reason: string }
 *   | { type: 'grant', name: string, id: number }
 *   | { type: 'reject', name: string, id: number, reason: 'deadline' | 'cancelled' | 'never-fits' | 'failed' | 'died' }
 * } Command
 */

/** Bookkeeping of one model. */
class Model {
  /** @param {Definition} definition */
  constructor({ name, ram, npu, domain = null, keepAliveMs = 300_000, priority = 0, pinned = false, concurrency = 1 }) {
    this.name = name
    this.ram = ram
    this.npu = npu
    this.fixedDomain = domain
    this.keepAliveMs = keepAliveMs
    this.priority = priority
    this.pinned = pinned
    this.concurrency = concurrency
    /** @type {State} */
    this.state = 'cold'
    /** @type {number | null} */
    this.domain = null
    this.reserved = { ram: 0, npu: 0 }
    /** @type {Request[]} */
    this.waiting = []
    /** @type {Set<number>} */
    this.leases = new Set()
    this.cancelling = false
    this.retried = false
    this.idleSince = 0
    this.loads = 0
    this.evictions = 0
    // The inputs of the policy.
    this.bytes = Math.max(ram, npu)
    this.loadMs = this.bytes * MS_PER_BYTE
    this.uses = 0
    this.usedAt = 0
    this.base = 0
  }
}

class ResidencyCore {
  /** @type {Map<string, Model>} */
  #models = new Map()
  /** @type {Room} */
  #room
  /** @type {Map<number, Model>} of each waiting request and lease */
  #owners = new Map()
  #policy
  #inflation = 0
  /** @type {Command[]} */
  #commands = []

  /**
   * @param {{ models: Definition[], ram: number, npu?: number, domains?: Domain[], policy?: 'cost' | 'lru' }} options
   *   `npu` bounds the bytes of all domains together
   */
  constructor({ models, ram, npu = Infinity, domains = [], policy = 'cost' }) {
    for (const definition of models) this.#models.set(definition.name, new Model(definition))
    this.#room = { ram, npu, domains, others: { ram: 0, npu: 0, domains: new Map() } }
    this.#policy = policy
  }

  /** @param {{ id: number, name: string, now: number, deadline?: number, priority?: number }} request */
  request({ id, name, now, deadline = Infinity, priority = 0 }) {
    const model = this.#modelOf(name)
    this.#owners.set(id, model)
    model.waiting.push({ id, at: now, deadline, priority })
    if (model.state === 'cold' || model.state === 'failed') model.state = 'queued'
    return this.tick(now)
  }

  /**
   * Ends a waiting request, or a lease. Ignores an unknown id, such as one that was rejected.
   *
   * @param {number} id
   * @param {number} now
   */
  cancel(id, now) {
    const model = this.#owners.get(id)
    if (model === undefined) return this.tick(now)
    if (model.leases.has(id)) return this.release(id, now)
    this.#reject(model, (request) => request.id === id, 'cancelled')
    return this.tick(now)
  }

  /**
   * @param {number} id
   * @param {number} now
   */
  release(id, now) {
    const model = this.#owners.get(id)
    if (model?.leases.delete(id)) {
      this.#owners.delete(id)
      if (model.leases.size === 0) model.idleSince = now
    }
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
    model.loads += 1
    model.loadMs = ms
    model.idleSince = now
    model.retried = false
    // The grant that follows is the use.
    age(model, now, this.#inflation)
    model.state = 'ready'
    // The load won the race against its cancellation.
    if (model.cancelling && model.waiting.length === 0) this.#unload(model, 'asked')
    model.cancelling = false
    return this.tick(now)
  }

  /**
   * A load failed or was cancelled. `stuck` bytes have not come back.
   *
   * @param {string} name
   * @param {number} now
   */
  loadFailed(name, now, stuck = { ram: 0, npu: 0 }) {
    const model = this.#modelOf(name)
    if (model.state !== 'loading') return this.tick(now)
    const wasCancelled = model.cancelling
    model.cancelling = false
    if (!wasCancelled && model.retried) this.#reject(model, () => true, 'failed')
    this.#gone(model, stuck, wasCancelled || !model.retried ? 'cold' : 'failed')
    model.retried = !wasCancelled && !model.retried
    return this.tick(now)
  }

  /**
   * An unload ended. `stuck` bytes have not come back.
   *
   * @param {string} name
   * @param {number} now
   */
  unloaded(name, now, stuck = { ram: 0, npu: 0 }) {
    const model = this.#modelOf(name)
    if (model.state === 'unloading') this.#gone(model, stuck, 'cold')
    return this.tick(now)
  }

  /**
   * Memory of a stuck model came back.
   *
   * @param {string} name
   * @param {number} now
   */
  recovered(name, now) {
    const model = this.#modelOf(name)
    if (model.state === 'stuck') this.#gone(model, { ram: 0, npu: 0 }, 'cold')
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
    for (const id of model.leases) {
      this.#owners.delete(id)
      this.#commands.push({ type: 'reject', name, id, reason: 'died' })
    }
    model.leases.clear()
    this.#unload(model, 'died')
    return this.tick(now)
  }

  /**
   * Unloads an idle model.
   *
   * @param {string} name
   * @param {number} now
   * @param {string} [reason]
   */
  evict(name, now, reason = 'asked') {
    const model = this.#modelOf(name)
    if (isIdle(model)) this.#unload(model, reason)
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
   * Does what is due, and returns the commands.
   *
   * @param {number} now
   */
  tick(now) {
    for (const model of this.#models.values()) {
      this.#reject(model, (request) => request.deadline <= now, 'deadline')
      if (model.state === 'queued' && !this.#couldFit(model)) this.#reject(model, () => true, 'never-fits')
      if (model.state === 'loading' && !model.cancelling && model.waiting.length === 0) {
        model.cancelling = true
        this.#commands.push({ type: 'cancel-load', name: model.name })
      }
    }
    const queue = [...this.#models.values()]
      .filter(({ state }) => state === 'queued')
      .sort((a, b) => compare(first(a), first(b)))
    const starving = queue.length > 0 ? this.#admit(queue, now) : null
    for (const model of this.#models.values()) this.#grant(model, now, starving)
    for (const model of this.#models.values()) {
      if (isIdle(model) && !model.pinned && now >= model.idleSince + model.keepAliveMs) this.#unload(model, 'idle')
    }
    const commands = this.#commands
    this.#commands = []
    return commands
  }

  /** The time at which `tick` has something to do though no event came; Infinity without one. */
  get wakeAt() {
    let at = Infinity
    for (const model of this.#models.values()) {
      for (const { deadline } of model.waiting) at = Math.min(at, deadline)
      if (isIdle(model) && !model.pinned) at = Math.min(at, model.idleSince + model.keepAliveMs)
    }
    return at
  }

  /** Figures of every model, and reserved bytes. */
  stats() {
    const models = [...this.#models.values()].map((model) => ({
      name: model.name,
      state: model.state,
      domain: model.domain,
      reserved: { ...model.reserved },
      leases: model.leases.size,
      waiting: model.waiting.length,
      loads: model.loads,
      evictions: model.evictions,
    }))
    const { others } = this.#room
    const domains = this.#room.domains.map(({ id, limit }) => {
      const held = others.domains.get(id) ?? 0
      return { id, limit, others: held, reserved: limit - held - this.#roomIn(id) }
    })
    const ram = { limit: this.#room.ram, others: others.ram, reserved: this.#reserved('ram') }
    const npu = { limit: this.#room.npu, others: others.npu, reserved: this.#reserved('npu') }
    return { ram, npu, domains, models }
  }

  /** @param {string} name */
  #modelOf(name) {
    const model = this.#models.get(name)
    if (model === undefined) throw new RangeError(`no model is called ${JSON.stringify(name)}`)
    return model
  }

  /**
   * Loads queued models in order. The first one without room has idle models evicted, and holds back those behind it,
   * which would take its room again and again. Returns it if only leases keep it waiting.
   *
   * @param {Model[]} queue
   * @param {number} now
   * @returns {{ victims: Model[], since: Request } | null}
   */
  #admit(queue, now) {
    for (const model of queue) {
      const domain = this.#placeOf(model, [])
      if (domain !== undefined) {
        this.#load(model, domain)
        continue
      }
      // Room that is on its way counts: evicting for it twice would be too much.
      const leaving = [...this.#models.values()].filter(({ state }) => state === 'unloading')
      if (this.#placeOf(model, leaving) !== undefined) return null
      const others = [...this.#models.values()].filter((other) => other.state === 'ready' && !other.pinned)
      const valueOf = (/** @type {Model} */ other) => VALUES[this.#policy](other, now)
      const enough = (/** @type {Model[]} */ gone) => this.#placeOf(model, [...leaving, ...gone]) !== undefined
      const idle = pickVictims(others.filter(isIdle), valueOf, enough)
      if (idle !== null) {
        for (const victim of idle) {
          this.#inflation = Math.max(this.#inflation, VALUES.cost(victim, now))
          this.#unload(victim, 'room')
        }
        return null
      }
      const victims = pickVictims(others, valueOf, enough) ?? []
      const since = first(model)
      for (const victim of victims) {
        // A victim that only has later requests goes at once, and they wait for their next load.
        const goes = victim.leases.size === 0 && (isIdle(victim) || compare(since, first(victim)) < 0)
        if (goes) this.#unload(victim, 'room')
      }
      return { victims, since }
    }
    return null
  }

  /**
   * Gives leases to waiting requests. A model that has to go serves only requests before the one it goes for.
   *
   * @param {Model} model
   * @param {number} now
   * @param {{ victims: Model[], since: Request } | null} starving
   */
  #grant(model, now, starving) {
    while (model.state === 'ready' && model.leases.size < model.concurrency && model.waiting.length > 0) {
      const next = first(model)
      if (starving?.victims.includes(model) && compare(starving.since, next) < 0) return
      model.waiting.splice(model.waiting.indexOf(next), 1)
      model.leases.add(next.id)
      recordUse(model, now, this.#inflation)
      this.#commands.push({ type: 'grant', name: model.name, id: next.id })
    }
  }

  /**
   * Returns the domain that fits a model best once `gone` are gone: null on a machine without domains,
   * undefined without room.
   *
   * @param {Model} model
   * @param {Model[]} gone
   * @param {boolean} [withOthers] whether the bytes of others are taken
   */
  #placeOf(model, gone, withOthers = true) {
    const { ram, npu, domains, others } = this.#room
    if (model.ram > ram - (withOthers ? others.ram : 0) - this.#reserved('ram', gone)) return undefined
    if (model.npu > npu - (withOthers ? others.npu : 0) - this.#reserved('npu', gone)) return undefined
    if (domains.length === 0) return null
    const [best] = domains
      .filter(({ id }) => model.fixedDomain === null || model.fixedDomain === id)
      .map(({ id }) => ({ id, room: this.#roomIn(id, gone, withOthers) }))
      .filter(({ room }) => model.npu <= room)
      // Best fit keeps whole domains for large models.
      .sort((a, b) => a.room - b.room || a.id - b.id)
    return best?.id
  }

  /**
   * Whether a model fits once all others are gone but those that are pinned, and once no other program holds anything.
   *
   * @param {Model} model
   */
  #couldFit(model) {
    const others = [...this.#models.values()].filter((other) => !isHeld(other))
    return this.#placeOf(model, others, false) !== undefined
  }

  /**
   * Sums the bytes that are reserved for models.
   *
   * @param {'ram' | 'npu'} kind
   * @param {Model[]} [gone]
   */
  #reserved(kind, gone) {
    let bytes = 0
    for (const model of this.#models.values()) if (!gone?.includes(model)) bytes += model.reserved[kind]
    return bytes
  }

  /**
   * @param {number} domain
   * @param {Model[]} [gone]
   */
  #roomIn(domain, gone, withOthers = true) {
    const { domains, others } = this.#room
    let room = domains.find(({ id }) => id === domain)?.limit ?? 0
    if (withOthers) room -= others.domains.get(domain) ?? 0
    for (const model of this.#models.values())
      if (model.domain === domain && !gone?.includes(model)) room -= model.reserved.npu
    return room
  }

  /**
   * @param {Model} model
   * @param {number | null} domain
   */
  #load(model, domain) {
    model.state = 'loading'
    model.domain = domain
    model.reserved = { ram: model.ram, npu: model.npu }
    this.#commands.push({ type: 'load', name: model.name, domain })
  }

  /**
   * @param {Model} model
   * @param {string} reason
   */
  #unload(model, reason) {
    model.evictions += 1
    model.state = 'unloading'
    this.#commands.push({ type: 'unload', name: model.name, reason })
  }

  /**
   * @param {Model} model
   * @param {{ ram: number, npu: number }} stuck
   * @param {State} state
   */
  #gone(model, stuck, state) {
    model.reserved = stuck
    const isStuck = stuck.ram > 0 || stuck.npu > 0
    if (!isStuck) model.domain = null
    model.state = isStuck ? 'stuck' : model.waiting.length > 0 ? 'queued' : state
  }

  /**
   * @param {Model} model
   * @param {(request: Request) => boolean} which
   * @param {'deadline' | 'cancelled' | 'failed' | 'never-fits'} reason
   */
  #reject(model, which, reason) {
    const rejected = model.waiting.filter(which)
    if (rejected.length === 0) return
    model.waiting = model.waiting.filter((request) => !rejected.includes(request))
    for (const { id } of rejected) {
      this.#owners.delete(id)
      this.#commands.push({ type: 'reject', name: model.name, id, reason })
    }
    if (model.state === 'queued' && model.waiting.length === 0) model.state = 'cold'
  }
}

/** @type {(model: Model) => boolean} A model that was asked for is not idle, and serves before it goes. */
const isIdle = ({ state, leases, waiting }) => state === 'ready' && leases.size === 0 && waiting.length === 0

/** @type {(model: Model) => boolean} A pinned model that is loaded, or will be, keeps its memory. */
const isHeld = ({ pinned, state }) => pinned && (state === 'loading' || state === 'ready')

/** @type {(a: Request, b: Request) => number} The request that comes first: their order never changes. */
const compare = (a, b) => rank(a) - rank(b) || a.at - b.at || a.id - b.id
/** @type {(request: Request) => number} */
const rank = ({ at, priority }) => at - priority * AGING_MS

/** @type {(model: Model) => Request} */
const first = (model) => model.waiting.reduce((best, next) => (compare(next, best) < 0 ? next : best))

module.exports = { ResidencyCore }
