'use strict'

// Ends the waits of freed slices (`reuseAfterMs`). A slice waits for a time and for turns of the event loop: while the
// loop stands still, no operation makes progress. This file counts the turns and asks the native part to end what is
// over. Its timer and immediates keep no process alive.

const native = require('../core/binding.js')
const { turns } = require('../core/fast-path.js')
const { clearTimeout, setImmediate, setTimeout } = require('../core/runtime.js')

/** Turns that are counted after a free: as many as a slice waits for. */
const TURNS = 3

/** The time between two looks at the waiting slices, in ms. A pool that needs them looks at once. */
const INTERVAL = 500

/** The time between two looks while more waits are over than one look ends, in ms. */
const NEXT = 2

/** Turns that are still to be counted. */
let left = 0
let counting = false

function countTurns() {
  left = TURNS
  if (counting) return
  counting = true
  setImmediate(turn).unref()
}

function turn() {
  turns[0]++
  left--
  counting = left > 0
  if (counting) setImmediate(turn).unref()
}

class Waits {
  #handle
  /** @type {NodeJS.Timeout | undefined} */
  #timer

  /** @param {import('../core/manager-handle.js').ManagerHandle} handle */
  constructor(handle) {
    this.#handle = handle
  }

  /** A slice may have started to wait. */
  started() {
    countTurns()
    if (this.#timer === undefined) this.#wake(INTERVAL)
  }

  end() {
    clearTimeout(this.#timer)
  }

  /** @param {number} ms */
  #wake(ms) {
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      if (this.#handle.closed) return
      // An idle loop turns only for this timer.
      turns[0]++
      const [waiting, more] = native.endWaits(this.#handle.value)
      if (waiting > 0) this.#wake(more ? NEXT : INTERVAL)
    }, ms)
    this.#timer.unref()
  }
}

module.exports = { Waits }
