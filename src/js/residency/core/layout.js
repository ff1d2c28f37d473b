'use strict'

// Free bytes of RAM and of each domain, and the models placed there: what is, or what would be after loads and
// unloads. Pure: no clock, no I/O.

/**
 * @typedef {import('./model.js').Model} Model
 * @typedef {import('./model.js').Piece} Piece
 * @typedef {{ id: number, limit: number }} Domain
 * @typedef {{ ram: number, npu: number, pieces: Piece[] }} Place what a model takes
 *
 * @typedef {object} Room bytes in all, and those that others than these models hold
 * @property {number} ram
 * @property {number} npu of all domains together
 * @property {Domain[]} domains
 * @property {{ ram: number, npu: number, domains: Map<number, number> }} others
 */

/** A search for places gives up after so many steps. */
const MAX_STEPS = 20_000

class Layout {
  /** Free bytes of RAM; negative if more is taken than there is. So are the other figures. */
  ram
  /** Free bytes of all domains together. */
  npu
  /** @type {Map<number, number>} free bytes by domain */
  rooms
  /** @type {Map<Model, Place>} */
  placed
  #context

  /**
   * @param {{ domains: Domain[], models: Model[] }} context
   * @param {{ ram: number, npu: number, rooms: Map<number, number>, placed: Map<Model, Place> }} free
   */
  constructor(context, { ram, npu, rooms, placed }) {
    this.#context = context
    this.ram = ram
    this.npu = npu
    this.rooms = new Map(rooms)
    this.placed = new Map(placed)
  }

  /**
   * The present layout.
   *
   * @param {Model[]} models
   * @param {Room} room
   * @param {boolean} [withOthers] whether the bytes of others are taken
   * @param {Model[]} [all] the models that there are, if not all of them count
   */
  static of(models, { ram, npu, domains, others }, withOthers = true, all = models) {
    const counted = withOthers ? others : { ram: 0, npu: 0, domains: new Map() }
    const rooms = new Map(domains.map(({ id, limit }) => [id, limit - (counted.domains.get(id) ?? 0)]))
    const free = { ram: ram - counted.ram, npu: npu - counted.npu }
    const layout = new Layout({ domains, models: all }, { ...free, rooms, placed: new Map() })
    for (const model of models) {
      const { reserved, pieces, state } = model
      const isPlaced = ['loading', 'ready', 'unloading', 'stuck'].includes(state)
      if (isPlaced) layout.#take(model, { ...reserved, pieces })
    }
    return layout
  }

  /** Whether no more is taken than there is. */
  get isWithin() {
    return this.ram >= 0 && this.npu >= 0 && [...this.rooms.values()].every((room) => room >= 0)
  }

  /** @param {Iterable<Model>} gone */
  without(gone) {
    const layout = new Layout(this.#context, this)
    for (const model of gone) layout.#give(model)
    return layout
  }

  /**
   * Adds a model at a domain that `domainsFor` named.
   *
   * @param {Model} model
   * @param {number | null} domain
   */
  add(model, domain) {
    const { ram, npu } = model
    this.#take(model, { ram, npu, pieces: this.piecesAt(model, domain) ?? [] })
  }

  /**
   * Returns the domain that suits a model best: null on a machine without domains, undefined without room.
   *
   * @param {Model} model
   * @param {(number | null)[]} [among] the domains that it may have
   * @returns {number | null | undefined}
   */
  place(model, among) {
    const domains = this.domainsFor(model).filter((domain) => among === undefined || among.includes(domain))
    if (domains.length < 2) return domains[0]
    const pinned = this.#context.models.filter((other) => other.pinned && other !== model && !this.placed.has(other))
    if (pinned.length > 0) {
      // A pinned model stays where it is put, so that only what else stays decides where it may be.
      const ground = model.pinned ? this.without([...this.placed.keys()].filter((other) => !other.pinned)) : this
      const good = domains.filter((domain) => {
        const then = ground.without([])
        then.add(model, domain)
        return then.assign(pinned) !== null
      })
      if (good.length > 0) return good[0]
    }
    return domains[0]
  }

  /**
   * Returns the domains with room for a model, the fullest first: best fit keeps whole domains for large models.
   *
   * @param {Model} model
   * @returns {(number | null)[]}
   */
  domainsFor(model) {
    if (model.ram > this.ram || model.npu > this.npu) return []
    if (this.#context.domains.length === 0) return [null]
    const mates = this.#matesOf(model)
    const left = mates.reduce((sum, mate) => sum + (this.placed.has(mate) ? 0 : mate.npu), model.npu)
    return this.#allowed(model, mates)
      .filter((id) => this.piecesAt(model, id)?.every(({ id: at, bytes }) => bytes <= (this.rooms.get(at) ?? 0)))
      .map((id) => ({ id, room: this.rooms.get(id) ?? 0 }))
      // The rest of its group follows, so that a domain with room for all of them comes first.
      .sort((a, b) => Number(a.room < left) - Number(b.room < left) || a.room - b.room || a.id - b.id)
      .map(({ id }) => id)
  }

  /**
   * Finds places for all of some models, whatever the order. Null if there are none, or none was found.
   *
   * @param {Model[]} models
   * @returns {Map<Model, number | null> | null}
   */
  assign(models) {
    const order = [...models].sort((a, b) => Number(b.fixedDomain !== null) - Number(a.fixedDomain !== null) ||
      Number(b.pinned) - Number(a.pinned) || b.npu - a.npu)
    if (order.reduce((sum, { ram }) => sum + ram, 0) > this.ram) return null
    if (order.reduce((sum, { npu }) => sum + npu, 0) > this.npu) return null
    let steps = 0
    /** @type {Map<Model, number | null>} */
    const found = new Map()
    /** @type {(layout: Layout, at: number) => boolean} */
    const search = (layout, at) => {
      const model = order[at]
      if (model === undefined) return true
      const seen = new Set()
      for (const domain of layout.domainsFor(model)) {
        // Domains that are empty alike are one choice, unless a model must have one of them.
        const room = domain === null ? null : layout.rooms.get(domain)
        const isAlike = order.every(({ fixedDomain, spread }) => fixedDomain === null && spread === null)
        if ((isAlike && model.group === null && seen.has(room)) || ++steps > MAX_STEPS) continue
        seen.add(room)
        const then = layout.without([])
        then.add(model, domain)
        found.set(model, domain)
        if (search(then, at + 1)) return true
        found.delete(model)
      }
      return false
    }
    return search(this, 0) ? found : null
  }

  /**
   * The bytes that a model takes of each domain if it starts in `domain`; null where it cannot be.
   *
   * @param {Model} model
   * @param {number | null} domain
   * @returns {Piece[] | null}
   */
  piecesAt(model, domain) {
    if (domain === null) return []
    const { domains } = this.#context
    const start = domains.findIndex(({ id }) => id === domain)
    if (start < 0) return null
    if (model.npu <= domains[start].limit || model.spread === null) return [{ id: domain, bytes: model.npu }]
    const pieces = []
    let rest = model.npu
    for (const { id, limit } of domains.slice(start)) {
      const bytes = Math.min(rest, limit, model.spread)
      pieces.push({ id, bytes })
      rest -= bytes
      if (rest <= 0) return pieces
    }
    return null
  }

  /** @param {Model} model */
  #matesOf(model) {
    if (model.group === null) return []
    return this.#context.models.filter((other) => other.group === model.group && other !== model)
  }

  /**
   * The domains in which a model may be, full or not.
   *
   * @param {Model} model
   * @param {Model[]} mates
   */
  #allowed(model, mates) {
    for (const mate of mates) {
      const [piece] = this.placed.get(mate)?.pieces ?? []
      if (piece !== undefined) return model.fixedDomain === null || model.fixedDomain === piece.id ? [piece.id] : []
    }
    const fixed = [model, ...mates].map(({ fixedDomain }) => fixedDomain).filter((id) => id !== null)
    const bytes = mates.reduce((sum, { npu }) => sum + npu, model.npu)
    return this.#context.domains
      .filter(({ id, limit }) => fixed.every((only) => only === id) && (mates.length === 0 || bytes <= limit))
      .map(({ id }) => id)
  }

  /**
   * @param {Model} model
   * @param {Place} place
   */
  #take(model, place) {
    this.#change(place, -1)
    this.placed.set(model, place)
  }

  /** @param {Model} model */
  #give(model) {
    const place = this.placed.get(model)
    if (place === undefined) return
    this.#change(place, 1)
    this.placed.delete(model)
  }

  /**
   * @param {Place} place
   * @param {1 | -1} sign
   */
  #change({ ram, npu, pieces }, sign) {
    this.ram += sign * ram
    this.npu += sign * npu
    for (const { id, bytes } of pieces) this.rooms.set(id, (this.rooms.get(id) ?? 0) + sign * bytes)
  }
}

/**
 * Spreads bytes over the domains of a model: each up to what it had, and the last the rest.
 *
 * @param {Piece[]} pieces
 * @param {number} bytes
 */
function shares(pieces, bytes) {
  let rest = bytes
  return pieces.map(({ id, bytes: had }, at) => {
    const share = at === pieces.length - 1 ? rest : Math.min(rest, had)
    rest -= share
    return { id, bytes: share }
  })
}

module.exports = { Layout, shares }
