/**
 * Measures plans of arenas: the size by its lower bound, and the processor time.
 *
 *   node benchmark/arena.mjs [--max-ms N] [FILE.csv ...]
 *
 * The buffers of a file NAME.CAPACITY.csv are known to fit into that capacity, as those of the public minimalloc
 * collection are. Without files the lists are random.
 */

import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { parseArgs } from 'node:util'

import { planArena } from '../index.js'
import csv from '../src/js/arena/csv.js'

const { values, positionals } = parseArgs({
  options: { 'max-ms': { type: 'string', default: '10000' } },
  allowPositionals: true,
})
const maxMs = Number(values['max-ms'])

/** Milliseconds of this process's processor time. */
const cpuMs = () => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

for (const path of positionals) {
  const capacity = Number(/\.(\d+)\.csv$/.exec(path)?.[1]) || undefined
  const buffers = csv.readLifetimes(readFileSync(path, 'utf8'))
  const before = cpuMs()
  const { size, lowerBound, fits } = planArena(buffers, { capacity, maxMs })
  const verdict = fits === null ? '' : fits ? '  fits' : '  does not fit'
  console.log(
    `${basename(path).padEnd(20)} ${String(buffers.length).padStart(5)} buffers ${String(size).padStart(9)} bytes, ` +
      `${(size / lowerBound).toFixed(4)} x bound, ${((cpuMs() - before) / 1000).toFixed(2)} s${verdict}`,
  )
}

if (positionals.length === 0) {
  let seed = 1
  const random = (/** @type {number} */ limit) => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0
    return Math.floor((seed / 2 ** 32) * limit)
  }
  for (const count of [10, 100, 1000, 10_000]) {
    const ratios = Array.from({ length: count > 1000 ? 3 : 30 }, () => {
      const buffers = Array.from({ length: count }, (_, id) => {
        const lower = random(count)
        return { id, lower, upper: lower + 1 + random(40), size: 64 * (1 + random(4096)) }
      })
      const { size, lowerBound } = planArena(buffers, { maxMs: Math.min(maxMs, 1000) })
      return size / lowerBound
    }).sort((a, b) => a - b)
    const [median, worst] = [ratios[ratios.length >> 1], ratios.at(-1)]
    console.log(`${String(count).padStart(6)} buffers: median ${median.toFixed(4)} x bound, worst ${worst?.toFixed(4)}`)
  }
}
