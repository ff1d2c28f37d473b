/**
 * What pools and slabs cost, each figure beside a peer measured in the same run, turn by turn, so that whatever else the
 * machine does meanwhile hits both. Prints medians, their ratio and what it should reach; with --check a miss is exit
 * status 1.
 *
 *   node benchmark/pools.mjs [--rounds N] [--check]
 *
 * The first row's peer is two native calls of three numbers each that do nothing, made twice: as every other function of
 * this package is (`#[napi]`), and as bare as Node-API has them. The second is the harder one and has no figure to reach.
 */

import { readdirSync, readlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { parseArgs } from 'node:util'

import { MemoryManager } from '../index.js'

// The yardsticks only: no application has reason to reach behind index.js.
const native = createRequire(import.meta.url)('../src/js/binding.js')
const { idle } = native.hotFunctions()

const [KiB, MiB] = [1024, 1024 * 1024]
const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '300' }, check: { type: 'boolean', default: false } },
})
const ROUNDS = Number(values.rounds)
const WARM_UP = Math.ceil(ROUNDS / 5)

console.log(`Node ${process.version}, ${process.arch}, ${cpus().length} × ${cpus()[0]?.model.trim()}, ${ROUNDS} rounds\n`)

const manager = new MemoryManager({ backend: 'simulated' })
const pool = filled({ name: 'variable', initialSize: 64 * MiB })
const blocks = filled({ name: 'fixed', initialSize: 64 * MiB, blockSize: 64 * KiB })

await measure({
  'pool.allocate(64 KiB) + free()': [1000, () => pool.allocate(64 * KiB).free()],
  'the same, blocks of a fixed size': [1000, () => blocks.allocate(64 * KiB).free()],
  'two #[napi] calls of three numbers': [1000, () => (native.idle(1, 65536, 64), native.idle(1, 2, 3))],
  'two bare calls of three numbers': [1000, () => (idle(1, 65536, 64), idle(1, 2, 3))],
  'allocateFromPool(64 KiB) + deallocate': [20, () => manager.deallocate(manager.allocateFromPool(pool, 64 * KiB))],
  'new ArrayBuffer(64 KiB)': [20, () => new ArrayBuffer(64 * KiB)],
  'new ArrayBuffer(1 MiB)': [5, () => new ArrayBuffer(MiB)],
}).then((median) => {
  const [variable, fixed, wrapped, bare, buffer, small, large] = Object.keys(median)
  ratio(median, variable, wrapped, 1.6)
  ratio(median, variable, bare)
  ratio(median, fixed, wrapped, 1)
  ratio(median, fixed, bare)
  ratio(median, variable, small, 0.05)
  ratio(median, variable, large, 0.01)
  ratio(median, buffer, small, 0.3)
})

const unshared = new MemoryManager({ backend: 'simulated', slabs: { threshold: 0 } })
await measure({
  'allocateNPUMemory(16 KiB) + deallocate': [20, () => manager.deallocate(manager.allocateNPUMemory(16 * KiB))],
  'the same, a kernel object each': [20, () => unshared.deallocate(unshared.allocateNPUMemory(16 * KiB))],
}).then((median) => ratio(median, ...Object.keys(median)))
manager.dispose()
unshared.dispose()

console.log('20,000 NPU buffers of 16 KiB')
// As many without slabs as the limit of descriptors allows: one each is one each.
const few = held(Math.min(20_000, Math.floor(descriptorsLeft() / 2)), { threshold: 0 })
const many = held(20_000)
const each = (what) => few[what] / few.buffers
for (const what of ['descriptors', 'objects']) {
  console.log(`  ${what}: ${many[what]} in slabs; ${few[what]} for ${few.buffers} buffers of their own`)
  judge(`${what} : one each`, many[what] / (20_000 * each(what)), 0.01)
}
if (values.check && missed) process.exitCode = 1

/** A pool of the benchmark's manager in which a few blocks live already. */
function filled(options) {
  const made = manager.createMemoryPool(options)
  for (let i = 0; i < 50; i++) made.allocate(64 * KiB)
  return made
}

/** Descriptors and kernel objects that so many live buffers take. */
function held(count, slabs) {
  const holder = new MemoryManager({ backend: 'simulated', slabs })
  const before = openDescriptors()
  const live = Array.from({ length: count }, () => holder.allocateNPUMemory(16 * KiB))
  const descriptors = openDescriptors() - before
  const { objects } = holder.getNPUMemoryStats()
  holder.dispose()
  return { buffers: live.length, descriptors, objects }
}

/** `{name: [calls a round, what to call]}` → `{name: median nanoseconds a call}`. */
async function measure(contestants) {
  const all = Object.entries(contestants).map(([name, [calls, call]]) => ({ name, calls, run: loop(call), samples: [] }))
  for (let round = -WARM_UP; round < ROUNDS; round++) {
    // Who goes first takes turns too.
    for (let i = 0; i < all.length; i++) {
      const { calls, run, samples } = all[(i + round + WARM_UP) % all.length]
      const start = process.hrtime.bigint()
      run(calls)
      const nanoseconds = Number(process.hrtime.bigint() - start)
      if (round >= 0) samples.push(nanoseconds / calls)
      // Finalizers run now and not inside the next measurement.
      await nextTurn()
    }
  }
  const medians = {}
  for (const { name, samples } of all) {
    samples.sort((a, b) => a - b)
    medians[name] = samples[samples.length >> 1]
    console.log(`${name.padEnd(42)} ${medians[name].toFixed(0).padStart(9)} ns`)
  }
  console.log()
  return medians
}

/** A loop of its own for each, so that no contestant's types slow another's down. */
function loop(call) {
  return new Function('call', 'return (calls) => { for (let i = 0; i < calls; i++) call() }')(call)
}

function ratio(medians, name, peer, reach) {
  judge(`${name} : ${peer}`, medians[name] / medians[peer], reach)
}

var missed
function judge(title, value, reach) {
  const verdict = reach === undefined ? '' : `at most ${reach}${value <= reach ? '' : '  MISSED'}`
  missed ||= value > reach
  console.log(`  ${title.padEnd(80)} ${value.toFixed(4)}  ${verdict}`)
}

function openDescriptors() {
  return readdirSync('/proc/self/fd').length
}

function descriptorsLeft() {
  return manager.disposed ? limit() - openDescriptors() : 0
}

function limit() {
  return Number(process.report.getReport().userLimits.open_files.soft)
}
