/**
 * What profiling costs, on and off turn by turn in the same run. Prints medians, their ratios and what those should be at most; the
 * exit status says nothing of them.
 *
 *   node benchmark/profiling.mjs [--rounds N] [--trace FILE] [--runs N]
 *
 * The pool's pairs come first, once more samples were taken than a burst has (src/profile/sampler.rs), so that what is measured lasts.
 * Then the demo, as whole processes.
 */

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { MemoryManager } from '../index.js'

const KiB = 1024
const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '400' }, trace: { type: 'string' }, runs: { type: 'string', default: '5' } },
})
const ROUNDS = Number(values.rounds)
const PAIRS = 2000

console.log(`Node ${process.version}, ${process.arch}, ${cpus().length} × ${cpus()[0]?.model.trim()}, ${ROUNDS} rounds\n`)

const managers = [undefined, {}].map((profiling) => new MemoryManager({ backend: 'simulated', ...(profiling && { profiling }) }))
const pools = managers.map((manager) => manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: 64 << 20 }))
// A manager that was profiled once, and is not any more.
managers.push(new MemoryManager({ backend: 'simulated', profiling: true }))
pools.push(managers[2].createMemoryPool({ name: 'p', kind: 'system', initialSize: 64 << 20 }))
managers[2].disableMemoryProfiling()
const loops = pools.map((pool) => {
  // A function of its own for each, so that none is compiled for all three.
  return new Function('pool', 'pairs', 'for (let i = 0; i < pairs; i++) pool.allocate(4096).free()').bind(undefined, pool, PAIRS)
})
for (let warm = 0; warm < 1500; warm++) loops.forEach((loop) => loop())
const times = loops.map(() => [])
for (let round = 0; round < ROUNDS; round++) {
  for (let turn = 0; turn < loops.length; turn++) {
    const at = (round + turn) % loops.length
    const began = performance.now()
    loops[at]()
    times[at].push(((performance.now() - began) / PAIRS) * 1e6)
  }
}
const [off, on, offAgain] = times.map(median)
print('pool.allocate(4 KiB) + free(), not profiled', `${off.toFixed(1)} ns`)
print('the same, profiled', `${on.toFixed(1)} ns`, on / off, 1.1)
print('the same, profiled once and not now', `${offAgain.toFixed(1)} ns`, offAgain / off)
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
const run = (...options) => {
  const { status, stderr } = spawnSync(process.execPath, [demo, ...(values.trace ? ['--trace', values.trace] : []), ...options], { encoding: 'utf8' })
  if (status !== 0) throw new Error(stderr)
}
const seconds = { plain: [], profiled: [] }
for (let at = 0; at < Number(values.runs); at++) {
  for (const [name, options] of at % 2 ? [['profiled', ['--report', report]], ['plain', []]] : [['plain', []], ['profiled', ['--report', report]]]) {
    const began = performance.now()
    run(...options)
    seconds[name].push((performance.now() - began) / 1000)
  }
}
print('the demo', `${median(seconds.plain).toFixed(2)} s`)
print('the demo, profiled, with a report', `${median(seconds.profiled).toFixed(2)} s`, median(seconds.profiled) / median(seconds.plain), 1.02)

rmSync(directory, { recursive: true })

function median(numbers) {
  return [...numbers].sort((a, b) => a - b)[numbers.length >> 1]
}

function print(what, figure, ratio, target) {
  const goal = target === undefined ? '' : `at most ${target}${ratio > target ? ': MISSED' : ''}`
  console.log(`  ${what.padEnd(50)} ${figure.padStart(10)} ${ratio === undefined ? '' : ratio.toFixed(3).padStart(9)}  ${goal}`)
}
