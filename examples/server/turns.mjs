/**
 * Lets a number of requests begin in each turn of the event loop. Hundreds of clients that are refused and ask again at
 * once would else fill each turn, and the tokens of the running request would wait for them.
 */

import { setImmediate } from 'node:timers'

export class Turns {
  #perTurn
  #left
  #waiting = []
  #scheduled = false

  /** @param {number} perTurn */
  constructor(perTurn) {
    this.#perTurn = this.#left = perTurn
  }

  /** Resolves when the caller may begin. */
  enter() {
    if (!this.#scheduled) {
      this.#scheduled = true
      setImmediate(this.#turn)
    }
    if (this.#left > 0) {
      this.#left--
      return
    }
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  #turn = () => {
    const begin = this.#waiting.splice(0, this.#perTurn)
    this.#left = this.#perTurn - begin.length
    this.#scheduled = begin.length > 0
    if (this.#scheduled) setImmediate(this.#turn)
    for (const resolve of begin) resolve()
  }
}
