/**
 * Measures the cost of profiling, on and off in turn in the same run. Prints medians, their ratios and the goals of the
 * ratios; the exit status does not depend on them.
 *
 *   node benchmark/profiling.mjs [--rounds N] [--trace FILE] [--runs N]
 *
 * The pool's pairs come first, after more samples than a burst has (src/profile/sampler.rs), so that they measure the
 * steady state. Then come demos, as whole processes, a pair at a time: two alike, which show the noise, and two of
 * which one is profiled.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { MemoryManager } from '../index.js'
import { countsOf, machine, roundsOf } from './options.mjs'

const KiB = 1024
const values = countsOf(
  'profiling.mjs',
  { rounds: { fallback: 2000, text: 'measurements of each case' }, runs: { fallback: 5, text: 'runs of the demo' } },
  { trace: { type: 'string', value: 'PATH', text: 'the trace that the demo replays' } },
)
const ROUNDS = values.rounds
const PAIRS = 2000

console.log(`${machine()}, ${ROUNDS} rounds\n`)

const managers = [undefined, {}].map(
  (profiling) => new MemoryManager({ backend: 'simulated', ...(profiling && { profiling }) }),
)
const pools = managers.map((manager) => manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: 64 << 20 }))
// A manager whose profiling was switched off.
managers.push(new MemoryManager({ backend: 'simulated', profiling: true }))
pools.push(managers[2].createMemoryPool({ name: 'p', kind: 'system', initialSize: 64 << 20 }))
managers[2].disableMemoryProfiling()
const loops = pools.map((pool) => {
  // Each pool has a function of its own, so that none is compiled for all three.
  return new Function('pool', 'pairs', 'for (let i = 0; i < pairs; i++) pool.allocate(4096).free()').bind(
    undefined,
    pool,
    PAIRS,
  )
})
for (let warm = 0; warm < 1500; warm++) loops.forEach((loop) => loop())
const times = loops.map(() => [])
for (const round of roundsOf(0, ROUNDS, 'pairs, profiled and not')) {
  for (let turn = 0; turn < loops.length; turn++) {
    const at = (round + turn) % loops.length
    const began = performance.now()
    loops[at]()
    times[at].push(((performance.now() - began) / PAIRS) * 1e6)
  }
}
// The median of each round's ratio: other load on the machine affects both sides of a round.
const [off, on, offAgain] = times.map(median)
const ofRounds = (which) => median(times[which].map((time, round) => time / times[0][round]))
print('pool.allocate(4 KiB) + free(), not profiled', `${off.toFixed(1)} ns`)
print('the same, profiled', `${on.toFixed(1)} ns`, ofRounds(1), 1.1)
print('the same, profiling switched off', `${offAgain.toFixed(1)} ns`, ofRounds(2))
const [, profiled] = managers
const { callSites, allocations } = profiled.getMemoryProfile()
console.log(`  ${allocations} allocations were recorded; call sites: ${callSites.length}\n`)
managers.forEach((manager) => manager.dispose())

const many = new MemoryManager({ backend: 'simulated', profiling: true })
const kept = Array.from({ length: 50_000 }, (_, at) => many.allocateNPUMemory(4 * KiB, { tag: `tag ${at % 20}` }))
const snapshots = Array.from({ length: 9 }, () => {
  const began = performance.now()
  many.takeSnapshot()
  return performance.now() - began
})
print(`takeSnapshot of ${kept.length} buffers, ms`, '', median(snapshots), 100)
many.dispose()

const demo = fileURLToPath(new URL('../examples/demo/main.mjs', import.meta.url))
const directory = mkdtempSync(join(tmpdir(), 'rkllm-benchmark-'))
const report = join(directory, 'report.prom')
/** Runs a demo and returns its seconds. */
async function run(...options) {
  const began = performance.now()
  const child = spawn(process.execPath, [demo, ...(values.trace ? ['--trace', values.trace] : []), ...options], {
    // Not the terminal itself: the demos' bars would be written over each other.
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  child.stderr.pipe(process.stderr, { end: false })
  const [status] = await once(child, 'exit')
  if (status !== 0) throw new Error(`the demo ended with ${status}`)
  return (performance.now() - began) / 1000
}
// Runs two at once: the machine's speed changes by more from minute to minute than profiling costs.
const twoOf = (...options) => Promise.all([run(), run(...options)])
const seconds = { same: [], profiled: [] }
for (const _ of roundsOf(0, values.runs, 'demos, two at once')) {
  seconds.same.push(await twoOf())
  seconds.profiled.push(await twoOf('--report', report))
}
if (seconds.same.length > 0) {
  const of = (pairs, which) => median(pairs.map((pair) => pair[which]))
  const ratio = (pairs) => median(pairs.map(([plain, other]) => other / plain))
  print('two demos at once, neither profiled', `${of(seconds.same, 1).toFixed(2)} s`, ratio(seconds.same))
  print('one of them profiled, with a report', `${of(seconds.profiled, 1).toFixed(2)} s`, ratio(seconds.profiled), 1.02)
}

rmSync(directory, { recursive: true })

function median(numbers) {
  return [...numbers].sort((a, b) => a - b)[numbers.length >> 1]
}

function print(what, figure, ratio, target) {
  const goal = target === undefined ? '' : `at most ${target}${ratio > target ? ': MISSED' : ''}`
  console.log(
    `  ${what.padEnd(50)} ${figure.padStart(10)} ${ratio === undefined ? '' : ratio.toFixed(3).padStart(9)}  ${goal}`,
  )
}
