'use strict'

const { memoryError } = require('../core/errors.js')
const { onDemand } = require('../core/on-demand.js')
const { invalid, formatValue } = require('../core/options.js')

/** @typedef {import('./pool.js').MemoryPool} MemoryPool */

/** `pool.js`, which a registry with pools has loaded already. */
const poolModule = onDemand(() => require('./pool.js'))

/** The pools of one manager, by name. */
class PoolRegistry {
  /** @type {Map<string, MemoryPool>} */
  #pools = new Map()
  /**
   * The pools by native handle: each event of a pool is looked up.
   *
   * @type {Map<number, MemoryPool>}
   */
  #byHandle = new Map()
  /**
   * The names of pools that another thread is making. An abort gives the name back at once.
   *
   * @type {Map<string, { signal: AbortSignal | undefined }>}
   */
  #claims = new Map()

  /** @param {string} name */
  get(name) {
    return this.#pools.get(name)
  }

  /**
   * Throws if another thread is making a pool of that name. The native part knows the names of the others.
   *
   * @param {string} name
   */
  checkName(name) {
    const claim = this.#claims.get(name)
    if (claim === undefined || claim.signal?.aborted) return
    throw memoryError('ERR_POOL_EXISTS', `a pool called ${JSON.stringify(name)} is being created`, {
      hint: 'wait for the promise of createMemoryPoolAsync, or abort it',
    })
  }

  /**
   * Takes a name for a pool that another thread makes. Returns a function that gives it back.
   *
   * @param {string} name
   * @param {AbortSignal} [signal]
   */
  claim(name, signal) {
    this.checkName(name)
    const claim = { signal }
    this.#claims.set(name, claim)
    return () => void (this.#claims.get(name) === claim && this.#claims.delete(name))
  }

  /** @param {MemoryPool} pool */
  add(pool) {
    this.#pools.set(pool.name, pool)
    this.#byHandle.set(poolModule().handleOf(pool), pool)
  }

  /** @param {MemoryPool} pool */
  delete(pool) {
    this.#pools.delete(pool.name)
    this.#byHandle.delete(poolModule().handleOf(pool))
  }

  [Symbol.iterator]() {
    return this.#pools.values()
  }

  /** The native handles of all pools. */
  handles() {
    return [...this.#byHandle.keys()]
  }

  /**
   * The pool of a native handle.
   *
   * @param {number} handle
   */
  byHandle(handle) {
    return this.#byHandle.get(handle)
  }

  /**
   * The pool that a caller means by a pool or its name.
   *
   * @param {unknown} pool
   */
  resolve(pool) {
    const given = poolModule().isPool(pool)
    const name = given ? pool.name : pool
    if (typeof name !== 'string') throw invalid(`the pool must be a MemoryPool or its name, not ${formatValue(pool)}`)
    const known = this.#pools.get(name)
    if (known !== undefined && (pool === name || pool === known)) return known
    if (given && pool.destroyed) {
      throw memoryError('ERR_POOL_DESTROYED', `pool ${JSON.stringify(name)} was destroyed`)
    }
    const hint =
      this.#pools.size === 0 ? 'it has none' : `it has ${[...this.#pools.keys()].map(formatValue).join(', ')}`
    throw memoryError('ERR_POOL_UNKNOWN', `this MemoryManager has no such pool ${JSON.stringify(name)}`, { hint })
  }

  /** Marks all pools as destroyed: their manager was disposed. */
  end() {
    for (const pool of this.#pools.values()) poolModule().endPool(pool)
    this.#pools.clear()
    this.#byHandle.clear()
  }
}

module.exports = { PoolRegistry }
