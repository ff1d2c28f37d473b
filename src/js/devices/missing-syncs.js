'use strict'

// Reports the syncs that a program missed, as the simulated device's model of the CPU's caches finds them.

const native = require('../core/binding.js')

/** The most frames of a report's place. */
const STACK_DEPTH = 8

/**
 * The meaning and the remedy of each fault.
 *
 * @type {Record<string, { certain: boolean, means: string, mend: string }>}
 */
const FAULTS = {
  'device-read-dirty': {
    certain: true,
    means: 'the NPU read lines that the CPU had written and not synced: it read old bytes',
    mend: 'call syncToDevice after the last write and before the job',
  },
  'device-wrote-dirty': {
    certain: true,
    means:
      'the NPU wrote lines that the CPU, or the last owner of the memory, had written and not synced: the CPU may ' +
      'write its bytes over them at any time',
    mend: 'call syncToDevice before the job, also for memory that the job only writes',
  },
  'invalidated-dirty': {
    certain: true,
    means: 'syncFromDevice dropped lines that the CPU had written and not synced',
    mend: 'call syncToDevice before it, or sync only the range that the job wrote',
  },
  'cleaned-stale': {
    certain: false,
    means:
      'the CPU wrote a part of lines that the NPU had written and that were not synced: the rest of them lost the ' +
      'bytes of the NPU',
    mend: 'call syncFromDevice before the CPU writes a part of a result',
  },
  'never-invalidated': {
    certain: false,
    means:
      'the buffer was freed with lines that the NPU had written and that were never synced: a CPU that read them saw ' +
      'other bytes',
    mend: 'call syncFromDevice before the CPU reads a result',
  },
}

/** @typedef {import('../types/devices.js').MissingSync} MissingSync */

class MissingSyncs {
  #handle
  #events
  #describe
  #stackHere
  /**
   * Faults and places that a process warning has named.
   *
   * @type {Set<string>}
   */
  #warned = new Set()
  /** @type {string | undefined} The place of a call that is made later than the user's. */
  #place

  /**
   * @param {object} parts of the manager
   * @param {import('../core/manager-handle.js').ManagerHandle} parts.handle
   * @param {import('../core/manager-events.js').ManagerEvents} parts.events
   * @param {(buffer: ArrayBuffer) => import('../types/allocations.js').BufferInfo} parts.describe
   * @param {(depth: number) => string} parts.stackHere
   */
  constructor({ handle, events, describe, stackHere }) {
    this.#handle = handle
    this.#events = events
    this.#describe = describe
    this.#stackHere = stackHere
  }

  /** Returns the place of the user's call, for a check after other threads' work. */
  place() {
    return this.#place ?? this.#stackHere(STACK_DEPTH)
  }

  /**
   * Makes a call for the user's call at `place`, which is not on the stack any more.
   *
   * @param {string} place
   * @param {() => void} call
   */
  at(place, call) {
    this.#place = place
    try {
      call()
    } finally {
      this.#place = undefined
    }
  }

  /**
   * Reports what a call on `buffer` showed.
   *
   * @param {ArrayBuffer} buffer
   * @param {number} [id]
   * @param {string} [place]
   */
  check(buffer, id, place) {
    for (const { fault, offset, length } of native.takeMissingSyncs(this.#handle.value, buffer, id)) {
      this.#report({ info: this.#describe(buffer), fault, offset, length, place: place ?? this.place() })
    }
  }

  /**
   * Looks for results that were never synced. Returns a function that reports them once the buffer was freed; undefined
   * if there are none. A free that is refused reports nothing.
   *
   * @param {ArrayBuffer} buffer
   * @param {number} [id]
   */
  beforeFree(buffer, id) {
    let info
    let stale = 0
    try {
      info = this.#describe(buffer)
      if (info.kind === 'npu') stale = native.staleBytes(this.#handle.value, buffer, id)
    } catch {
      return undefined // another manager's buffer, for example: freeing it fails with the reason
    }
    if (stale === 0) return undefined
    const found = { info, fault: 'never-invalidated', offset: 0, length: stale, place: this.place() }
    return () => this.#report(found)
  }

  /**
   * @param {object} found
   * @param {import('../types/allocations.js').BufferInfo} found.info
   * @param {string} found.fault
   * @param {number} found.offset
   * @param {number} found.length
   * @param {string} found.place
   */
  #report({ info, fault, offset, length, place }) {
    const { certain, means, mend } = FAULTS[fault]
    const names = [`buffer ${info.id}`, info.tag && `tag "${info.tag}"`, info.pool && `pool "${info.pool}"`]
    const where = fault === 'never-invalidated' ? `${length} bytes` : `bytes ${offset} to ${offset + length - 1}`
    const message = `${names.filter(Boolean).join(', ')}: ${means} (${where})`
    const what = { fault, certain, message, hint: mend, buffer: info, offset, length, place }
    const missing = /** @type {MissingSync} */ (what)
    if (this.#events.listenedTo('missingSync')) this.#events.emitLater('missingSync', missing)
    else if (certain) this.#warn(missing)
  }

  /** @param {MissingSync} missing */
  #warn({ fault, message, hint, place }) {
    const key = `${fault}\n${place}`
    if (this.#warned.has(key) || this.#warned.size >= 100) return
    this.#warned.add(key)
    process.emitWarning(`${message}; ${hint}\n${place}`, { code: 'RKLLM_MISSING_SYNC' })
  }
}

module.exports = { MissingSyncs }
