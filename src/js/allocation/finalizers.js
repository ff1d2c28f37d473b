'use strict'

// Lets the finalizers of dropped buffers run, for allocations that were refused. All allocations of a thread that wait
// share one forced collection, and collections take a tenth of its time at most: a server at its limit refuses requests
// by the hundred, and each collection stops its event loop for milliseconds.

const { collectGarbage } = require('../core/gc.js')
const { now, setImmediate, setTimeout } = require('../core/runtime.js')

/** Time between two collections, in durations of the first; and the longest such time, in ms. */
const [PAUSE, MAX_PAUSE_MS] = [9, 500]

/** @type {Promise<void> | undefined} The collection that requests can still join. */
let next
let last = Promise.resolve()
let notBefore = 0

/**
 * Collects garbage and lets finalizers run. Resolves early at an abort of `signal`.
 *
 * @param {AbortSignal} [signal]
 */
async function runFinalizers(signal) {
  next ??= last = collection(last)
  if (signal === undefined) return next
  /** @type {() => void} */
  let aborted = () => {}
  const abort = new Promise((resolve) => (aborted = () => resolve(undefined)))
  signal.addEventListener('abort', aborted, { once: true })
  await Promise.race([next, abort])
  signal.removeEventListener('abort', aborted)
}

/** @param {Promise<void>} before the collection before this one */
async function collection(before) {
  await before
  const pause = notBefore - now()
  if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause))
  next = undefined
  // A turn first: a buffer stays that was made or looked at in this one.
  await turn()
  const began = now()
  collectGarbage()
  const ended = now()
  notBefore = ended + Math.min(MAX_PAUSE_MS, PAUSE * (ended - began))
  // Finalizers come some turns after a collection.
  for (let turns = 0; turns < 3; turns++) await turn()
}

const turn = () => new Promise((resolve) => setImmediate(resolve))

module.exports = { runFinalizers }
