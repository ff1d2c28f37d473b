'use strict'

// The state changes of models, each with its commands. Pure: no clock, no process, no I/O.

const { shares } = require('./layout.js')

/**
 * @typedef {import('./model.js').Bytes} Bytes
 * @typedef {import('./model.js').Command} Command
 * @typedef {import('./model.js').Model} Model
 * @typedef {import('./model.js').Piece} Piece
 * @typedef {import('./model.js').RejectReason} RejectReason
 * @typedef {import('./model.js').Request} Request
 * @typedef {import('./model.js').State} State
 */

class Transitions {
  /** The model of each waiting request and lease. @type {Map<number, Model>} */
  #owners = new Map()
  /** @type {Command[]} */
  #commands = []

  /** Number of commands that were not taken yet. */
  get count() {
    return this.#commands.length
  }

  /** Takes the commands. */
  take() {
    const commands = this.#commands
    this.#commands = []
    return commands
  }

  /**
   * Returns the model of a waiting request or a lease.
   *
   * @param {number} id
   */
  ownerOf(id) {
    return this.#owners.get(id)
  }

  /**
   * Adds a request to those that wait for a model.
   *
   * @param {Model} model
   * @param {Request} request
   */
  enqueue(model, request) {
    this.#owners.set(request.id, model)
    model.waiting.push(request)
    if (model.state === 'cold' || model.state === 'failed') model.state = 'queued'
  }

  /**
   * @param {Model} model
   * @param {number | null} domain
   * @param {Piece[]} pieces
   */
  load(model, domain, pieces) {
    model.state = 'loading'
    model.domain = domain
    model.pieces = pieces
    model.reserved = { ram: model.ram, npu: model.npu }
    this.#commands.push({ type: 'load', name: model.name, domain, pieces })
  }

  /** @param {Model} model */
  cancelLoad(model) {
    model.cancelling = true
    this.#commands.push({ type: 'cancel-load', name: model.name })
  }

  /**
   * @param {Model} model
   * @param {string} reason
   */
  unload(model, reason) {
    model.evictions += 1
    model.draining = null
    model.state = 'unloading'
    this.#commands.push({ type: 'unload', name: model.name, reason })
  }

  /**
   * A load or an unload ended, and all but `stuck` is back.
   *
   * @param {Model} model
   * @param {Bytes} stuck
   * @param {State} state without requests
   */
  end(model, stuck, state) {
    const isStuck = stuck.ram > 0 || stuck.npu > 0
    model.reserved = { ...stuck }
    model.pieces = isStuck ? shares(model.pieces, stuck.npu) : []
    if (!isStuck) model.domain = null
    model.state = isStuck ? 'stuck' : model.waiting.length > 0 ? 'queued' : state
  }

  /**
   * @param {Model} model
   * @param {number} id
   */
  grant(model, id) {
    model.leases.add(id)
    this.#serve(model, id)
    this.#commands.push({ type: 'grant', name: model.name, id })
  }

  /**
   * Ends a request that wanted the model loaded, and no lease.
   *
   * @param {Model} model
   * @param {number} id
   */
  finishPreload(model, id) {
    this.#owners.delete(id)
    this.#serve(model, id)
    this.#commands.push({ type: 'preloaded', name: model.name, id })
  }

  /**
   * @param {Model} model
   * @param {number} id
   */
  #serve(model, id) {
    model.waiting = model.waiting.filter((request) => request.id !== id)
  }

  /**
   * @param {number} id
   * @param {number} now
   */
  release(id, now) {
    const model = this.#owners.get(id)
    if (!model?.leases.delete(id)) return
    this.#owners.delete(id)
    if (model.leases.size === 0) model.idleSince = now
  }

  /**
   * Takes the leases of a model back.
   *
   * @param {Model} model
   * @param {'died' | 'evicted'} reason
   */
  endLeases(model, reason) {
    for (const id of model.leases) this.#refuse(model, id, reason)
    model.leases.clear()
  }

  /**
   * Refuses waiting requests.
   *
   * @param {Model} model
   * @param {(request: Request) => boolean} which
   * @param {RejectReason} reason
   */
  reject(model, which, reason) {
    const rejected = model.waiting.filter(which)
    if (rejected.length === 0) return
    model.waiting = model.waiting.filter((request) => !rejected.includes(request))
    for (const { id } of rejected) this.#refuse(model, id, reason)
    if (model.state === 'queued' && model.waiting.length === 0) model.state = 'cold'
  }

  /**
   * @param {Model} model
   * @param {number} id
   * @param {RejectReason} reason
   */
  #refuse({ name }, id, reason) {
    this.#owners.delete(id)
    this.#commands.push({ type: 'reject', name, id, reason })
  }
}

module.exports = { Transitions }
