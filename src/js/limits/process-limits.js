'use strict'

// Warns before a process reaches its limits of file descriptors and mappings, which it does long before memory ends.
//
// Counting them reads /proc, which costs milliseconds where there are thousands. One allocation adds at most one
// descriptor and a few mappings, so that a count tells how many allocations may pass before the next count.
//
// The limits of bytes (`src/accounting/`) compute their levels once. These limits may change at any time (setrlimit,
// sysctl), so the shares are compared at each count.

/** Shares of a limit at which 'warning' fires, once per crossing upwards. */
const WARN_AT = [0.7, 0.9]
/** A crossing has ended when the share is this much below it. */
const HYSTERESIS = 0.05
/** A kernel object is one mapping; with a large alignment, three. */
const MAPS_PER_OBJECT = 3
/**
 * Bounds of the allocations between two counts. Other code opens files too, so that even a distant limit is counted
 * again.
 */
const [MIN_WAIT, MAX_WAIT] = [8, 4096]

const NAMES = { fds: 'file descriptors', maps: 'mappings' }
const REMEDIES = {
  fds: 'raise RLIMIT_NOFILE (ulimit -n), or use pools and slabs: they share kernel objects',
  maps: 'raise vm.max_map_count (sysctl), or use pools and slabs: they share mappings',
}

/** @typedef {import('../types/limits.js').MemoryWarning} MemoryWarning */
/** @typedef {'fds' | 'maps'} Scope */

class ProcessLimits {
  #count
  #warn
  #wait = MIN_WAIT
  /** The highest share that was warned of, by scope. */
  #warned = { fds: 0, maps: 0 }

  /**
   * @param {() => number[]} count open descriptors and their limit, mappings and theirs; NaN where that is unknown
   * @param {(warning: MemoryWarning) => void} warn
   */
  constructor(count, warn) {
    this.#count = count
    this.#warn = warn
  }

  /** Notes that a kernel object may have been made, and counts when that is due. */
  allocated() {
    if (--this.#wait > 0) return
    const [openFds, maxFds, maps, maxMaps] = this.#count()
    const room = Math.min(this.#check('fds', openFds, maxFds), this.#check('maps', maps, maxMaps) / MAPS_PER_OBJECT)
    this.#wait = Math.max(MIN_WAIT, Math.min(Math.floor(room / 2), MAX_WAIT))
  }

  /**
   * Warns if a level was crossed. Returns how many more fit below the next level.
   *
   * @param {Scope} scope
   * @param {number} used
   * @param {number} max
   */
  #check(scope, used, max) {
    const ratio = used / max
    if (!Number.isFinite(ratio)) return Infinity
    const reached = WARN_AT.findLast((share) => ratio >= share) ?? 0
    if (reached > this.#warned[scope]) {
      this.#warned[scope] = reached
      const percent = Math.floor(ratio * 100)
      const message = `${used} of ${max} ${NAMES[scope]} are in use (${percent} %): ${REMEDIES[scope]}`
      this.#warn({ scope, used, max, ratio, message })
    } else if (ratio < this.#warned[scope] - HYSTERESIS) {
      this.#warned[scope] = reached
    }
    const next = WARN_AT.find((share) => share > Math.max(ratio, this.#warned[scope])) ?? 1
    return Math.max(0, next * max - used)
  }
}

module.exports = { ProcessLimits }
