'use strict'

// Ends the waits of freed slices (`reuseAfterMs`). A slice waits for a time and for turns of the event loop in which it
// polls I/O: while the loop stands still, no operation makes progress. This file counts the turns and asks the native
// part to end what is over. Its timer keeps no process alive, and its immediates do so for some turns at most.

const native = require('../core/binding.js')
const { turns } = require('../core/fast-path.js')
const { clearTimeout, setImmediate, setTimeout } = require('../core/runtime.js')

const DENO = process.versions.deno !== undefined

/** Turns that are counted at a time: as many as a slice waits for. */
const TURNS = 12

/**
 * The immediates in a row that count as one turn. Deno's event loop polls I/O at every 61st immediate (runtimes.md
 * §3.2), that of Node and Bun at each.
 */
const IMMEDIATES = DENO ? 61 : 1

/**
 * The time between two looks at the waiting slices, in ms. A pool that needs them looks at once. The immediates of a
 * look take up to 5 ms on Deno.
 */
const INTERVAL = DENO ? 1000 : 500

/** The time between two looks while more waits are over than one look ends, in ms. */
const NEXT = 2

/** Immediates that are still to be counted, and those that were. */
let left = 0
let passed = 0
/** @type {NodeJS.Immediate | undefined} */
let next
/** Whether an idle loop counts too: it calls an immediate without a reference only after another event. */
let idleToo = false

function countTurns() {
  left = TURNS * IMMEDIATES
  if (next === undefined) wait()
}

/** Counts the turns of an idle loop too, which keeps the process alive for so long. */
function countTurnsNow() {
  idleToo = true
  next?.ref()
  countTurns()
}

function wait() {
  next = setImmediate(pass)
  if (!idleToo) next.unref()
}

function pass() {
  passed++
  left--
  if (passed % IMMEDIATES === 0) turns[0]++
  if (left > 0) return wait()
  next = undefined
  idleToo = false
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
      const [waiting, more] = native.endWaits(this.#handle.value)
      if (waiting === 0) return
      countTurnsNow()
      this.#wake(more ? NEXT : INTERVAL)
    }, ms)
    this.#timer.unref()
  }
}

module.exports = { Waits }
