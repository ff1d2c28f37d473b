'use strict'

// A model's bookkeeping, and the order of requests. Pure: no clock, no I/O.

/** A priority is worth so much waiting. */
const AGING_MS = 30_000

/**
 * @typedef {'cold' | 'queued' | 'loading' | 'ready' | 'unloading' | 'stuck' | 'failed'} State
 * @typedef {{ ram: number, npu: number }} Bytes
 * @typedef {{ id: number, at: number, deadline: number, priority: number, preload: boolean }} Request
 * @typedef {{ id: number, bytes: number }} Piece bytes in a domain
 *
 * @typedef {'deadline' | 'cancelled' | 'never-fits' | 'failed' | 'died' | 'evicted'} RejectReason
 * @typedef {{ type: 'load', name: string, domain: number | null, pieces: Piece[] }
 *   | { type: 'cancel-load', name: string }
 *   | { type: 'unload', name: string, reason: string }
 *   | { type: 'grant', name: string, id: number }
 *   | { type: 'preloaded', name: string, id: number }
 *   | { type: 'reject', name: string, id: number, reason: RejectReason }
 * } Command
 *
 * @typedef {object} Definition
 * @property {string} name
 * @property {number} ram bytes
 * @property {number} npu bytes in its domain
 * @property {number | null} [domain] the only domain it may have
 * @property {string | null} [group] models of a group are in one domain
 * @property {number | null} [spread] a model that no domain holds fills up to so many bytes of each of several
 * neighbouring ones; null if it cannot
 * @property {number} [keepAliveMs] idle models are unloaded after so long; by default only for others
 * @property {number} [priority]
 * @property {boolean} [pinned]
 * @property {number} [concurrency]
 */

/** Bookkeeping of one model. */
class Model {
  /** @param {Definition} definition */
  constructor(definition) {
    const { name, ram, npu, domain = null, group = null, spread = null } = definition
    const { keepAliveMs = Infinity, priority = 0, pinned = false, concurrency = 1 } = definition
    this.name = name
    this.ram = ram
    this.npu = npu
    this.fixedDomain = domain
    this.group = group
    this.spread = spread
    this.keepAliveMs = keepAliveMs
    this.priority = priority
    this.pinned = pinned
    this.concurrency = concurrency
    /** @type {State} */
    this.state = 'cold'
    /** @type {number | null} */
    this.domain = null
    /** @type {Piece[]} what it takes of each domain */
    this.pieces = []
    /** @type {Bytes} */
    this.reserved = { ram: 0, npu: 0 }
    /** @type {Bytes | null} */
    this.measured = null
    /** @type {Request[]} */
    this.waiting = []
    /** @type {Set<number>} */
    this.leases = new Set()
    this.cancelling = false
    this.retried = false
    /** @type {Model[]} idle models that are unloaded before a failed load is tried again */
    this.awaits = []
    /** @type {string | null} why it is unloaded once its leases have ended */
    this.draining = null
    this.idleSince = 0
    this.readyAt = 0
    this.loads = 0
    /** @type {number | null} of the last load, as measured */
    this.lastLoadMs = null
    /** Whether the load that runs, or ran last, had others beside it. */
    this.loadedBeside = false
    /** Whether a measured load time counts in `loadMs`. */
    this.isTimed = false
    this.evictions = 0
    /** @type {Bytes} */
    this.estimated = { ram, npu }
    // The inputs of the policy. The load time is smoothed, and an estimate before the first load.
    this.bytes = Math.max(ram, npu)
    this.loadMs = 0
    this.uses = 0
    this.usedAt = 0
  }
}

/** @type {(model: Model) => boolean} A model that was asked for is not idle, and serves before it goes. */
const isIdle = ({ state, leases, waiting }) => state === 'ready' && leases.size === 0 && waiting.length === 0

/** @type {(model: Model) => boolean} A pinned model that is loaded, or will be, keeps its memory. */
const isHeld = ({ pinned, state }) => pinned && (state === 'loading' || state === 'ready')

/** @type {(request: Request) => number} */
const rank = ({ at, priority }) => at - priority * AGING_MS
/** @type {(a: Request, b: Request) => number} The request that comes first: their order never changes. */
const compare = (a, b) => rank(a) - rank(b) || a.at - b.at || a.id - b.id

/** @type {(requests: Request[]) => Request | undefined} */
const firstOf = ([one, ...others]) => others.reduce((best, next) => (compare(next, best) < 0 ? next : best), one)
/** @type {(model: Model) => Request} The first request of a model that has some. */
const first = ({ waiting }) => /** @type {Request} */ (firstOf(waiting))

module.exports = { Model, compare, first, firstOf, isHeld, isIdle, rank }
