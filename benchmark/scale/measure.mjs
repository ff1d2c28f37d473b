/** How the rows of scale.mjs measure: samples of two sides in turn, and the longest turn of the event loop. */

import { closeSync, openSync, readSync } from 'node:fs'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')

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
 * Reads the processor time of this thread, in milliseconds. The scheduler's figure alone counts up to its last tick,
 * and so does `process.threadCpuUsage`: a turn would show 4 ms more or less. `process.cpuUsage` brings it up to date.
 */
function openProcessorClock() {
  const file = openSync('/proc/thread-self/schedstat', 'r')
  const bytes = Buffer.alloc(64)
  const read = () => {
    process.cpuUsage()
    return parseInt(bytes.toString('latin1', 0, readSync(file, bytes, 0, 64, 0)), 10) / 1e6
  }
  return { read, close: () => closeSync(file) }
}

/**
 * The longest turn of the event loop while `act` runs, in milliseconds: by the `clock`, and by the processor time that
 * the loop's thread took in it (`ran`). A driver's latency is in the first alone, and so is other work on the machine.
 *
 * @param {() => unknown} act
 */
export async function longestTurn(act) {
  const processor = openProcessorClock()
  const longest = { clock: 0, ran: 0 }
  let running = true
  let last = { now: performance.now(), ran: processor.read() }
  // With an immediate in each turn, the loop never waits for events.
  const look = () => {
    // What comes after the end is not a turn of this run.
    if (!running) return processor.close()
    const next = { now: performance.now(), ran: processor.read() }
    longest.clock = Math.max(longest.clock, next.now - last.now)
    longest.ran = Math.max(longest.ran, next.ran - last.ran)
    last = next
    setImmediate(look)
  }
  setImmediate(look)
  await sleep(20)
  await act()
  await sleep(20)
  running = false
  return longest
}

/**
 * Longest turns of `times` runs, each after its own `prepare`, and after the buffers of earlier runs were collected:
 * the finalizers of 100,000 of them would take a second of a turn.
 */
export async function longestTurns({ times, update }, prepare, act) {
  const turns = []
  for (let run = 0; run < times; run++) {
    const prepared = await prepare()
    for (let i = 0; i < 2; i++) {
      collect()
      await sleep(200)
    }
    turns.push(await longestTurn(() => act(prepared)))
    await prepared.end()
    update(run)
  }
  return { clock: figuresOf(turns.map(({ clock }) => clock)), ran: figuresOf(turns.map(({ ran }) => ran)) }
}
