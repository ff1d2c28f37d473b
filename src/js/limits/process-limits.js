'use strict'

// The two walls that a process runs into long before memory ends: file descriptors and mappings.
//
// Counting them reads /proc, which costs milliseconds where there are thousands. An allocation adds at most one
// descriptor and a few mappings, so after a count it is known how many allocations the next one may wait.

/** Shares of the limit at which 'warning' fires, once per crossing upwards. */
const WARN_AT = [0.7, 0.9]
/** A crossing is over when the share is this much below it again. */
const HYSTERESIS = 0.05
/** A kernel object is one mapping, three with a large alignment. */
const MAPS_PER_OBJECT = 3
/** Others open files too: never wait longer than this many allocations. */
const LONGEST_WAIT = 4096
const SHORTEST_WAIT = 8

const NAMES = { fds: 'file descriptors', maps: 'mappings' }
const REMEDIES = {
  fds: 'raise RLIMIT_NOFILE (ulimit -n), or use pools and slabs: they share kernel objects',
  maps: 'raise vm.max_map_count (sysctl), or use pools and slabs: they share mappings',
}

class Walls {
  #count
  #warn
  #wait = SHORTEST_WAIT
  /** The highest share that was warned of, per wall. */
  #warned = { fds: 0, maps: 0 }

  /**
   * @param {() => number[]} count open descriptors and their limit, mappings and theirs; not a number where that is not known
   * @param {(warning: object) => void} warn
   */
  constructor(count, warn) {
    this.#count = count
    this.#warn = warn
  }

  /** A kernel object may have been made. */
  allocated() {
    if (--this.#wait > 0) return
    const [openFds, maxFds, maps, maxMaps] = this.#count()
    const room = Math.min(this.#look('fds', openFds, maxFds), this.#look('maps', maps, maxMaps) / MAPS_PER_OBJECT)
    this.#wait = Math.max(SHORTEST_WAIT, Math.min(Math.floor(room / 2), LONGEST_WAIT))
  }

  /** Warns if a wall came near; returns how many more there may be before it next has to. */
  #look(scope, used, max) {
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

module.exports = { Walls }
