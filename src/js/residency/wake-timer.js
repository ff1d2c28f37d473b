'use strict'

// The timer of a residency: one at a time, which keeps the process alive only while a request waits.

const { clearTimeout, now, setTimeout } = require('../core/runtime.js')

/** The longest time of a timer. */
const MAX_TIMER_MS = 2 ** 31 - 1

class WakeTimer {
  #wake
  /** @type {any} */
  #timer
  #at = Infinity
  #isRef = false

  /** @param {() => void} wake */
  constructor(wake) {
    this.#wake = wake
  }

  /**
   * Sets the timer to a time, if it is earlier than the present one: a timer that fires early costs less than a new one
   * for each lease.
   *
   * @param {number} at
   * @param {boolean} keepsAlive whether the process waits for it
   */
  arm(at, keepsAlive) {
    if (at < this.#at) {
      clearTimeout(this.#timer)
      this.#at = at
      this.#timer = setTimeout(
        () => {
          this.#at = Infinity
          this.#wake()
        },
        Math.min(MAX_TIMER_MS, Math.max(1, Math.ceil(at - now()))),
      )
      this.#isRef = true
    }
    if (this.#isRef === keepsAlive) return
    this.#isRef = keepsAlive
    if (keepsAlive) this.#timer?.ref()
    else this.#timer?.unref()
  }

  /** Ends the timer for good. */
  end() {
    clearTimeout(this.#timer)
    this.#at = -Infinity
  }
}

module.exports = { WakeTimer }
