'use strict'

// Memory that looks after itself: compaction on demand, in the background, and before an allocation fails.

const native = require('../core/binding.js')

/** A pool whose free bytes are more scattered than this is compacted by itself. */
const DEFRAGMENT_ABOVE = 0.5
/** After the last free, so that a burst of them is one compaction. */
const SETTLE_MS = 50
/** One slice of it: what the event loop may wait for, beside V8's own collections. */
const SLICE_MS = 0.5
const SLICE_BYTES = 2 ** 21
/** Numbers that tell of a move, and the moves of a slice at most. */
const NUMBERS = 6
const SLICE_MOVES = 128

/** What an allocation is refused for that other memory of ours might have. */
const WANTING = new Set([
  'ERR_POOL_EXHAUSTED',
  'ERR_OUT_OF_MEMORY',
  'ERR_IOVA_EXHAUSTED',
  'ERR_MEMORY_LIMIT',
  'ERR_TOO_MANY_FDS',
  'ERR_TOO_MANY_MAPS',
])

class Cleanup {
  #above
  #onExhaustion
  #onPressure
  /** The ArrayBuffer over an allocation, if anybody still has it. */
  #viewOf
  /** Told of the moves that were made. */
  #relocated
  /** Pools that wait for their turn in the background, and whether it was looked whether they are worth it. */
  #waiting = new Map()
  #timer
  /** What memory being short is answered with, while that is going on. */
  #relief
  #ended = false
  /** The moves of a slice. */
  #told = new Float64Array(NUMBERS * SLICE_MOVES)

  /**
   * @param {{ onPressure?: boolean, onExhaustion?: boolean, defragmentAbove?: number | null }} options
   * @param {(id: number) => ArrayBuffer | undefined} viewOf
   * @param {(moves: object[]) => void} relocated
   */
  constructor({ onPressure = true, onExhaustion = true, defragmentAbove = DEFRAGMENT_ABOVE }, viewOf, relocated) {
    this.#above = defragmentAbove
    this.#onExhaustion = onExhaustion
    this.#onPressure = onPressure
    this.#viewOf = viewOf
    this.#relocated = relocated
  }

  /** Whether an allocation was refused for something that other memory of ours might have. */
  static isWant(refusal) {
    return WANTING.has(refusal?.code)
  }

  /** Compacts the native pool `handle`, as far as `caps` allow. */
  defragment(handle, caps) {
    return this.#compact(handle, caps)
  }

  /** A movable block of the pool was freed: there may be something to compact soon. */
  gap(handle) {
    if (this.#above === null) return
    if (!this.#waiting.has(handle)) this.#waiting.set(handle, false)
    // A timer that holds no event loop open. It is set once: the burst that goes on is not waited for.
    this.#timer ??= setTimeout(() => this.#slice(), SETTLE_MS).unref()
  }

  /** Nothing happens in the background any more. */
  end() {
    clearTimeout(this.#timer)
    clearImmediate(this.#relief?.turn)
    clearTimeout(this.#relief?.turn)
    this.#waiting.clear()
    this.#above = null
    this.#ended = true
  }

  /**
   * Memory is short: gives back what can be, in slices, and calls `done` with the bytes. While that is going on it is not begun
   * again.
   *
   * @param {number} manager its native handle
   * @param {number[]} pools native handles
   * @param {(released: number) => void} done
   */
  relieve(manager, pools, done) {
    if (!this.#onPressure) return void done(0)
    if (this.#relief !== undefined) return
    let released = native.trimSlabs(manager)
    const scattered = pools.filter(canEmptyChunk)
    for (const pool of pools) if (!scattered.includes(pool)) released += native.poolTrim(pool)
    const turn = () => {
      if (this.#ended) return
      if (scattered.length === 0) {
        this.#relief = undefined
        done(released)
        return
      }
      const { finished, bytesFreed, idle } = this.#step(scattered[0])
      released += bytesFreed
      if (finished) scattered.shift()
      // While others look at the pool there is nothing to do but wait.
      this.#relief.turn = idle ? setTimeout(turn, 1).unref() : setImmediate(turn).unref()
    }
    this.#relief = { turn: setImmediate(turn).unref() }
  }

  /**
   * An allocation was refused: where that is for want of memory, gives back what can be and tries once more.
   *
   * @template T
   * @param {unknown} refusal
   * @param {() => T} allocate
   * @param {number} manager its native handle
   * @param {number[]} pools native handles of those that may have something to give, the one concerned first
   * @returns {T}
   */
  rescue(refusal, allocate, manager, pools) {
    if (!this.#onExhaustion || !Cleanup.isWant(refusal)) throw refusal
    const tried = this.#giveBack(manager, pools, refusal)
    if (tried === undefined) throw refusal
    try {
      return allocate()
    } catch (error) {
      if (Cleanup.isWant(error)) error.hint = [error.hint, `tried already: ${tried}`].filter(Boolean).join('; ')
      throw error
    }
  }

  /** What was done, in words; `undefined` when there was nothing to do. */
  #giveBack(manager, pools, { code }) {
    // Only its own pool has room for a slice.
    const concerned = code === 'ERR_POOL_EXHAUSTED' ? pools.slice(0, 1) : pools
    let [moved, freed] = [0, code === 'ERR_POOL_EXHAUSTED' ? 0 : native.trimSlabs(manager)]
    for (const pool of concerned) {
      if (native.poolMovables(pool) > 0) {
        const { bytesMoved, bytesFreed } = this.#compact(pool, {})
        moved += bytesMoved
        freed += bytesFreed
      } else if (code !== 'ERR_POOL_EXHAUSTED') {
        freed += native.poolTrim(pool)
      }
    }
    if (moved === 0 && freed === 0) return undefined
    return `compacting (${moved} bytes moved) and trimming (${freed} bytes given back)`
  }

  #slice() {
    this.#timer = undefined
    for (const [handle, worthwhile] of this.#waiting) {
      if (!worthwhile && !this.#worthwhile(handle)) {
        this.#waiting.delete(handle)
        continue
      }
      const { finished, fragmentation } = this.#step(handle)
      // With nothing left to move this pool waits for its next gap.
      if (finished || fragmentation <= this.#above) this.#waiting.delete(handle)
      else this.#waiting.set(handle, true)
      break
    }
    if (this.#waiting.size > 0 && this.#above !== null) this.#timer = setTimeout(() => this.#slice(), 1).unref()
  }

  /** One slice, of which nobody is there to hear that it failed: that pool is left alone then. */
  #step(handle) {
    try {
      const viewOf = (id) => this.#viewOf(id)
      const done = native.poolDefragmentSlice(handle, SLICE_MS, SLICE_BYTES, this.#told, viewOf)
      const { moved, stopped, bytesFreed, failure, fragmentationAfter: fragmentation } = done
      if (moved > 0) this.#relocated(movesOf(this.#told, moved))
      const idle = moved === 0
      return { finished: failure !== undefined || (idle && !stopped), bytesFreed, fragmentation, idle: idle && stopped }
    } catch {
      return { finished: true, bytesFreed: 0, fragmentation: 0, idle: false } // destroyed between two slices
    }
  }

  #worthwhile(handle) {
    if (native.poolMovables(handle) === 0) return false
    const { fragmentation } = native.poolStats(handle)
    return fragmentation > this.#above
  }

  #compact(handle, caps) {
    const began = performance.now()
    const { moves: told, moved, stopped: _, failure, ...figures } = native.poolDefragment(handle, caps, (id) => this.#viewOf(id))
    const moves = movesOf(told, moved)
    if (moved > 0) this.#relocated(moves)
    if (failure) throw failure
    return { moves, ...figures, durationMs: performance.now() - began }
  }
}

/** What the numbers tell of the first `count` moves. */
function movesOf(told, count) {
  const moves = []
  for (let at = 0; at < NUMBERS * count; at += NUMBERS) {
    const from = { chunk: told[at + 1], offset: told[at + 2] }
    const to = { chunk: told[at + 3], offset: told[at + 4] }
    moves.push({ id: told[at], from, to, size: told[at + 5] })
  }
  return moves
}

/** Whether moving blocks may give the device a chunk back. */
function canEmptyChunk(pool) {
  if (native.poolMovables(pool) === 0) return false
  const { chunks, free, reserved } = native.poolStats(pool)
  return chunks > 1 && free >= reserved / chunks
}

module.exports = { Cleanup }
