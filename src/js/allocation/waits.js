'use strict'

// Ends the waits of freed slices (`reuseAfterMs`). A slice waits for a time and for turns of the event loop in which it
// polls I/O: while the loop stands still, no operation makes progress. This file counts the turns and asks the native
// part to end what is over. Its timer and immediates keep no process alive.

const native = require('../core/binding.js')
const { turns } = require('../core/fast-path.js')
const { clearTimeout, setImmediate, setTimeout } = require('../core/runtime.js')

const DENO = process.versions.deno !== undefined

/** Turns that are counted at a time: as many as a slice waits for. */
const TURNS = 3

/**
 * The immediates in a row that count as one turn. Deno's event loop polls I/O at every 61st immediate (runtimes.md
 * §3.2), that of Node and Bun at each.
 */
const IMMEDIATES = DENO ? 61 : 1

/** The time between two looks at the waiting slices, in ms. A pool that needs them looks at once. */
const INTERVAL = 500

/** The time between two looks while more waits are over than one look ends, in ms. */
const NEXT = 2

/** Immediates that are still to be counted, and those that were. */
let left = 0
let passed = 0
let counting = false

function countTurns() {
  left = TURNS * IMMEDIATES
  if (counting) return
  counting = true
  nextImmediate()
}

function nextImmediate() {
  const immediate = setImmediate(pass)
  // An idle loop calls an immediate without a reference after another event only: 183 would take minutes on Deno. With
  // references they take 2 ms.
  if (!DENO) immediate.unref()
}

function pass() {
  passed++
  left--
  if (passed % IMMEDIATES === 0) turns[0]++
  counting = left > 0
  if (counting) nextImmediate()
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
    // Deno's many immediates follow the timer, which spares each free their cost.
    if (!DENO) countTurns()
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
      if (!DENO) turns[0]++
      const [waiting, more] = native.endWaits(this.#handle.value)
      if (waiting === 0) return
      if (DENO) countTurns()
      this.#wake(more ? NEXT : INTERVAL)
    }, ms)
    this.#timer.unref()
  }
}

module.exports = { Waits }
