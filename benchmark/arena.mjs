/**
 * Measures plans of arenas: the size by its lower bound, and the processor time.
 *
 *   node benchmark/arena.mjs [--max-ms N] [--rounds N] [--scale N] [FILE.csv ...]
 *
 * The buffers of a file NAME.CAPACITY.csv are known to fit into that capacity, as those of the public minimalloc
 * collection are. `--max-ms` is elapsed time: beside other work it must be longer than the processor time that is
 * allowed. From the second round on they are in a random order, in which the search takes another course.
 * `--scale` multiplies sizes and capacity. Without files the lists are random.
 */

import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { parseArgs } from 'node:util'

import { planArena } from '../index.js'
import csv from '../src/js/arena/csv.js'

const { values, positionals } = parseArgs({
  options: {
    'max-ms': { type: 'string', default: '10000' },
    rounds: { type: 'string', default: '1' },
    scale: { type: 'string', default: '1' },
  },
  allowPositionals: true,
})
const maxMs = Number(values['max-ms'])
const [rounds, scale] = [Number(values.rounds), Number(values.scale)]

let seed = 1
const random = (/** @type {number} */ limit) => {
  seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0
  return Math.floor((seed / 2 ** 32) * limit)
}

/** @type {<T>(list: T[]) => T[]} */
function shuffled(list) {
  const mixed = [...list]
  for (let at = mixed.length - 1; at > 0; at--) {
    const other = random(at + 1)
    ;[mixed[at], mixed[other]] = [mixed[other], mixed[at]]
  }
  return mixed
}

/** Milliseconds of this process's processor time. */
const cpuMs = () => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

for (const path of positionals) {
  const capacity = Number(/\.(\d+)\.csv$/.exec(path)?.[1]) * scale || undefined
  const buffers = csv.readLifetimes(readFileSync(path, 'utf8')).map((each) => ({ ...each, size: each.size * scale }))
  const results = Array.from({ length: rounds }, (_, round) => {
    const list = round === 0 ? buffers : shuffled(buffers)
    const before = cpuMs()
    const plan = planArena(list, { capacity, maxMs })
    return { ...plan, seconds: (cpuMs() - before) / 1000 }
  }).sort((a, b) => a.seconds - b.seconds)
  const largest = Math.max(...results.map(({ size }) => size))
  const fitting = results.filter(({ fits }) => fits).length
  const [median, slowest] = [results[rounds >> 1], results[rounds - 1]].map(({ seconds }) => seconds.toFixed(2))
  const verdict = capacity === undefined ? '' : `, ${fitting} of ${rounds} fit`
  console.log(
    `${basename(path).padEnd(20)} ${String(buffers.length).padStart(5)} buffers ${String(largest).padStart(9)} bytes` +
      `, ${(largest / results[0].lowerBound).toFixed(4)} x bound, median ${median} s, slowest ${slowest} s${verdict}`,
  )
}

if (positionals.length === 0) {
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
