/** How the rows of scale.mjs measure: samples of two sides in turn, and the longest turn of the event loop. */

import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

/** Milliseconds from tick to tick. A measured delay contains them. */
const RESOLUTION = 1
/** Turns of the event loop between rounds, in which finalizers and the driver's thread run. */
const ROUNDS_BETWEEN_TURNS = 64

/**
 * @typedef {{ median: number, p999: number, max: number, samples: number }} Figures
 */

/** @param {number[]} samples */
export function figuresOf(samples) {
  const sorted = [...samples].sort((a, b) => a - b)
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]
  return { median: at(0.5), p999: at(0.999), max: sorted.at(-1), samples: sorted.length }
}

/** Microseconds of one call. */
export function timed(act) {
  const began = process.hrtime.bigint()
  act()
  return Number(process.hrtime.bigint() - began) / 1000
}

/**
 * Samples two sides in turn, so that other work on the machine affects both. A side returns one sample.
 *
 * @param {{ rounds: number, update: (done: number) => void }} run
 * @param {() => number} peer
 * @param {() => number} subject
 */
export async function inTurn({ rounds, update }, peer, subject) {
  const samples = [[], []]
  for (let round = -Math.ceil(rounds / 10); round < rounds; round++) {
    const both = [peer(), subject()]
    if (round >= 0) both.forEach((sample, side) => samples[side].push(sample))
    if (round % ROUNDS_BETWEEN_TURNS === 0) {
      update(Math.max(0, round))
      await nextTurn()
    }
  }
  return samples.map(figuresOf)
}

/**
 * Milliseconds of the longest turn of the event loop while `act` runs.
 *
 * @param {() => unknown} act
 */
export async function longestTurn(act) {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION })
  delay.enable()
  await sleep(20)
  await act()
  await sleep(20)
  delay.disable()
  return Math.max(0, delay.max / 1e6 - RESOLUTION)
}

/** Longest turns of `times` runs, each after its own `prepare`. */
export async function longestTurns({ times, update }, prepare, act) {
  const samples = []
  for (let run = 0; run < times; run++) {
    const prepared = await prepare()
    samples.push(await longestTurn(() => act(prepared)))
    await prepared.end()
    update(run)
  }
  return figuresOf(samples)
}
