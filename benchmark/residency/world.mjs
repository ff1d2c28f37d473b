/** Virtual time, storage, memory and engines. Policies act in it; it counts bytes and waiting by itself. */

import { randomOf } from './arrivals.mjs'
import { serviceMs } from './boards.mjs'

/** Memory comes back so long after an unload, in milliseconds: at least, at most. */
const UNLOAD_MS = [250, 1500]

export class World {
  now = 0
  bytesLoaded = 0
  loads = 0
  overCommitted = 0
  waits = []
  #events = []
  #order = 0
  #storageFreeAt = 0
  #taken = new Map()
  #models
  #board
  #speed
  #random

  constructor({ models, board, speed, seed }) {
    this.#models = new Map(models.map((model) => [model.name, model]))
    this.#board = board
    this.#speed = speed
    this.#random = randomOf(seed + 3e6)
  }

  /** Calls `action` at a time; of several at one time in order. */
  at(time, action) {
    const event = { time: Math.max(time, this.now), order: this.#order++, action }
    let low = 0
    let high = this.#events.length
    while (low < high) {
      const middle = (low + high) >> 1
      const other = this.#events[middle]
      if (other.time > event.time || (other.time === event.time && other.order > event.order)) low = middle + 1
      else high = middle
    }
    this.#events.splice(low, 0, event)
  }

  run() {
    for (let event = this.#events.pop(); event !== undefined; event = this.#events.pop()) {
      this.now = event.time
      event.action()
    }
    if (this.#taken.size > 0 && [...this.#taken.values()].some((bytes) => bytes < 0)) throw new Error('bytes are lost')
  }

  /** Reads a model, after the loads before it: they share the storage. Calls `done` with the milliseconds it took. */
  load(name, done) {
    const { bytes } = this.#models.get(name)
    if (this.#taken.has(name)) throw new Error(`${name} is loaded twice`)
    this.#taken.set(name, bytes)
    const taken = [...this.#taken.values()].reduce((a, b) => a + b)
    this.overCommitted = Math.max(this.overCommitted, taken - this.#board.bytes)
    this.bytesLoaded += bytes
    this.loads += 1
    const start = this.now
    this.#storageFreeAt = Math.max(this.now, this.#storageFreeAt) + bytes / this.#speed
    this.at(this.#storageFreeAt, () => done(this.now - start))
  }

  unload(name, done) {
    const [least, most] = UNLOAD_MS
    this.at(this.now + least + this.#random() * (most - least), () => {
      this.#taken.delete(name)
      done()
    })
  }

  /** Serves a request, and calls `done` afterwards. */
  serve(request, done) {
    this.waits.push(this.now - request.at)
    this.at(this.now + serviceMs(this.#models.get(request.name), request), done)
  }
}
