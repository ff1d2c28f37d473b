'use strict'

// Gives memory back before an allocation fails, and when the kernel reports memory pressure.

const native = require('../core/binding.js')
const { formatBytes } = require('../core/format-bytes.js')
const { isExhaustion } = require('./exhaustion.js')
const { clearImmediate, clearTimeout, setImmediate, setTimeout } = require('../core/runtime.js')

/**
 * @typedef {{ onPressure?: boolean, onExhaustion?: boolean }} ReclaimOptions
 * @typedef {import('./refusals.js').Wanted} Wanted
 */

class Reclaimer {
  #handle
  #pools
  #compactor
  #refusals
  #onExhaustion
  #onPressure
  /**
   * The reclaim that memory pressure started, while it runs.
   *
   * @type {{ turn: any } | undefined} a timeout or an immediate
   */
  #underPressure
  #ended = false

  /**
   * @param {ReclaimOptions} options
   * @param {object} parts of the manager
   * @param {import('../core/manager-handle.js').ManagerHandle} parts.handle
   * @param {{ handles(): number[] }} parts.pools
   * @param {import('./compactor.js').Compactor} parts.compactor
   * @param {import('./refusals.js').Refusals} parts.refusals
   */
  constructor({ onPressure = true, onExhaustion = true }, { handle, pools, compactor, refusals }) {
    this.#handle = handle
    this.#pools = pools
    this.#compactor = compactor
    this.#refusals = refusals
    this.#onExhaustion = onExhaustion
    this.#onPressure = onPressure
  }

  /**
   * Calls `allocate`. If it fails for exhaustion, reclaims memory and calls it once more.
   *
   * @template T
   * @param {() => T} allocate
   * @param {Wanted} wanted for the counters and the `fail` channel
   * @param {number} [pool] the native pool that the allocation is for
   * @returns {T}
   */
  allocateWithReclaim(allocate, wanted, pool) {
    try {
      return allocate()
    } catch (refusal) {
      return this.reclaimAndRetry(refusal, allocate, wanted, pool)
    }
  }

  /**
   * The second half of `allocateWithReclaim`, for callers that have tried already.
   *
   * @template T
   * @param {unknown} refusal
   * @param {() => T} allocate
   * @param {Wanted} wanted
   * @param {number} [pool]
   * @returns {T}
   */
  reclaimAndRetry(refusal, allocate, wanted, pool) {
    try {
      return this.#retry(refusal, allocate, pool)
    } catch (error) {
      throw this.#refusals.final(error, wanted, pool)
    }
  }

  /**
   * Reclaims memory if `error` is exhaustion, and lets the event loop turn meanwhile. Returns whether another try may
   * succeed: also if nothing was reclaimed, because finalizers may still free something. With `onExhaustion: false`
   * nothing is tried, so that no collection is forced.
   *
   * @param {unknown} error
   * @param {number} [pool] the native pool that the allocation is for
   */
  async reclaimFor(error, pool) {
    if (!this.#onExhaustion || !isExhaustion(error)) return false
    const { pools, others } = this.#concerned(error, pool)
    if (others) native.trimSlabs(this.#handle.value)
    for (const handle of pools) {
      if (this.#ended) break
      if (isMovable(handle)) await this.#compact(handle)
      else if (others) trim(handle)
    }
    return true
  }

  /**
   * Answers memory pressure: reclaims memory in slices, then calls `done` with the bytes given back. Pressure during
   * that time is not answered again.
   *
   * @param {(released: number) => void} done
   */
  onPressure(done) {
    if (!this.#onPressure) return void done(0)
    if (this.#underPressure !== undefined) return
    let released = native.trimSlabs(this.#handle.value)
    const pools = this.#pools.handles()
    const scattered = pools.filter(canEmptyChunk)
    // Compaction gains nothing around holes that wait.
    scattered.forEach((pool) => native.poolEndWaits(pool))
    for (const pool of pools) if (!scattered.includes(pool)) released += native.poolTrim(pool)
    const turn = () => {
      if (this.#ended) return
      if (scattered.length === 0) {
        this.#underPressure = undefined
        done(released)
        return
      }
      const { finished, bytesFreed, idle } = this.#compactor.step(scattered[0])
      released += bytesFreed
      if (finished) scattered.shift()
      // Another thread is surveying the pool: poll again in a millisecond.
      running.turn = idle ? setTimeout(turn, 1).unref() : setImmediate(turn).unref()
    }
    /** @type {{ turn: any }} */
    const running = { turn: setImmediate(turn).unref() }
    this.#underPressure = running
  }

  /**
   * Compacts a pool in slices.
   *
   * @param {number} pool
   */
  async #compact(pool) {
    // Compaction gains nothing around holes that wait.
    native.poolEndWaits(pool)
    for (;;) {
      const { finished, idle } = this.#compactor.step(pool)
      if (finished) return
      await new Promise((resolve) => void (idle ? setTimeout(resolve, 1) : setImmediate(resolve)))
      if (this.#ended) return
    }
  }

  /** Stops the reclaim under pressure, and starts none any more. */
  end() {
    clearImmediate(this.#underPressure?.turn)
    clearTimeout(this.#underPressure?.turn)
    this.#ended = true
  }

  /**
   * @template T
   * @param {unknown} refusal
   * @param {() => T} allocate
   * @param {number} [pool]
   * @returns {T}
   */
  #retry(refusal, allocate, pool) {
    if (!this.#onExhaustion || !isExhaustion(refusal)) throw refusal
    const tried = this.#reclaim(refusal, pool)
    if (tried === undefined) throw refusal
    try {
      return allocate()
    } catch (error) {
      if (isExhaustion(error)) error.hint = [error.hint, `tried already: ${tried}`].filter(Boolean).join('; ')
      throw error
    }
  }

  /**
   * Reclaims memory. Returns a description of what was reclaimed, or undefined if nothing was.
   *
   * @param {import('../types/errors.js').MemoryError} refusal
   * @param {number | undefined} pool
   */
  #reclaim(refusal, pool) {
    const { pools, others } = this.#concerned(refusal, pool)
    let [moved, freed] = [0, others ? native.trimSlabs(this.#handle.value) : 0]
    for (const handle of pools) {
      if (isMovable(handle)) {
        const { bytesMoved, bytesFreed } = this.#compactor.defragment(handle, {})
        moved += bytesMoved
        freed += bytesFreed
      } else if (others) {
        freed += native.poolTrim(handle)
      }
    }
    if (moved === 0 && freed === 0) return undefined
    return `compacting (moved ${formatBytes(moved)}) and trimming (freed ${formatBytes(freed)})`
  }

  /**
   * The pools whose memory may help a refused request, its own first, and whether other memory may.
   *
   * @param {import('../types/errors.js').MemoryError} refusal
   * @param {number | undefined} pool
   */
  #concerned({ code }, pool) {
    const all = this.#pools.handles().filter((handle) => handle !== pool)
    if (pool !== undefined) all.unshift(pool)
    // Memory of other pools is no help to a pool that is full.
    const others = code !== 'ERR_POOL_EXHAUSTED'
    return { pools: others ? all : all.slice(0, 1), others }
  }
}

const isMovable = (/** @type {number} */ pool) => native.poolMovables(pool) > 0

/**
 * Trims a pool, unless it was destroyed meanwhile.
 *
 * @param {number} pool
 */
function trim(pool) {
  try {
    native.poolTrim(pool)
  } catch {
    // It has no memory left.
  }
}

/**
 * Whether moving blocks may empty a chunk, so that the device gets it back.
 *
 * @param {number} pool
 */
function canEmptyChunk(pool) {
  if (!isMovable(pool)) return false
  const { chunks, free, reserved } = native.poolStats(pool)
  return chunks > 1 && free >= reserved / chunks
}

module.exports = { Reclaimer }
