/**
 * Measures pools and slabs, each figure beside a peer measured in the same run, in turn, so that other load on the
 * machine affects both. Prints medians, their ratios and the goals of the ratios; the exit status does not depend on
 * them.
 *
 *   node benchmark/pools.mjs [--rounds N]
 *
 * The first peer is two native calls of three numbers each that do nothing. It has two forms: `#[napi]` functions like
 * the others of this package, and bare Node-API callbacks. `new ArrayBuffer` has two speeds: with memory that was used
 * before, and with memory from the kernel. A process sees one of them by chance, so run the benchmark more than once.
 */

import { readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../index.js'
import { countsOf, machine, roundsOf } from './options.mjs'

// Only the peers need the binding: applications use index.js.
const native = createRequire(import.meta.url)('../src/js/core/binding.js')
const { idle } = native.fastCalls()

const [KiB, MiB] = [1024, 1024 * 1024]
const { rounds: ROUNDS } = countsOf('pools.mjs', { rounds: { fallback: 300, text: 'measurements of each case' } })
const WARM_UP = Math.ceil(ROUNDS / 5)

console.log(`${machine()}, ${ROUNDS} rounds\n`)

const manager = new MemoryManager({ backend: 'simulated' })
const pool = filled({ name: 'variable', initialSize: 64 * MiB })
const blocks = filled({ name: 'fixed', initialSize: 64 * MiB, blockSize: 64 * KiB })

const calls = await measure({
  'pool.allocate(64 KiB) + free()': [1000, () => pool.allocate(64 * KiB).free()],
  'the same, with a tag': [1000, () => pool.allocate(64 * KiB, { tag: 'kv' }).free()],
  'pool.allocate(128) + free()': [1000, () => pool.allocate(128).free()],
  'the same, zeroed': [1000, () => pool.allocate(128, { zeroed: true }).free()],
  'the same, blocks of a fixed size': [1000, () => blocks.allocate(64 * KiB).free()],
  'two #[napi] calls of three numbers': [1000, () => (native.idle(1, 65536, 64), native.idle(1, 2, 3))],
  'two bare calls of three numbers': [1000, () => (idle(1, 65536, 64), idle(1, 2, 3))],
  'allocateFromPool(64 KiB) + deallocate': [20, () => manager.deallocate(manager.allocateFromPool(pool, 64 * KiB))],
  'new ArrayBuffer(64 KiB)': [20, () => new ArrayBuffer(64 * KiB)],
  'new ArrayBuffer(1 MiB)': [5, () => new ArrayBuffer(MiB)],
})
const [variable, tagged, small, zeroed, fixed, ...peers] = Object.entries(calls)
const [wrapped, bare, fromPool, arrayBuffer, largeArrayBuffer] = peers
compare(variable, wrapped, 1.6)
compare(variable, bare)
compare(tagged, variable, 1.5)
compare(zeroed, small, 1.5)
compare(fixed, wrapped, 1)
compare(fixed, bare)
compare(variable, arrayBuffer, 0.05)
compare(variable, largeArrayBuffer, 0.01)
compare(fromPool, arrayBuffer, 0.3)
console.log()

const unshared = new MemoryManager({ backend: 'simulated', slabs: { threshold: 0 } })
const npu = await measure({
  'allocateNPUMemory(16 KiB) + deallocate': [20, () => manager.deallocate(manager.allocateNPUMemory(16 * KiB))],
  'the same, a kernel object each': [20, () => unshared.deallocate(unshared.allocateNPUMemory(16 * KiB))],
})
compare(...Object.entries(npu))
manager.dispose()
unshared.dispose()

console.log('\n20,000 NPU buffers of 16 KiB')
const many = held(20_000)
// Without slabs the limit of descriptors bounds the number of buffers.
const few = held(Math.min(20_000, descriptorLimit() - openDescriptors() - 50), { threshold: 0 })
for (const what of ['descriptors', 'objects']) {
  const oneEach = few[what] / few.count
  print(`${what}: ${many[what]}, and ${few[what]} for ${few.count} without slabs`, many[what] / 20_000 / oneEach, 0.01)
}

/** Makes a pool of the benchmark's manager with a few live blocks. */
function filled(options) {
  const made = manager.createMemoryPool(options)
  for (let i = 0; i < 50; i++) made.allocate(64 * KiB)
  return made
}

/** Returns the descriptors and kernel objects of `count` live buffers. */
function held(count, slabs) {
  const holder = new MemoryManager({ backend: 'simulated', slabs })
  const before = openDescriptors()
  const live = Array.from({ length: count }, () => holder.allocateNPUMemory(16 * KiB))
  const descriptors = openDescriptors() - before
  const { objects } = holder.getNPUMemoryStats()
  holder.dispose()
  return { count: live.length, descriptors, objects }
}

/** Measures `{name: [calls a round, function]}` and returns `{name: median nanoseconds a call}`. */
async function measure(contestants) {
  const all = Object.entries(contestants).map(([name, [calls, call]]) => ({
    name,
    calls,
    run: loop(call),
    samples: [],
  }))
  for (const round of roundsOf(-WARM_UP, ROUNDS, Object.keys(contestants)[0])) {
    // The order alternates too.
    for (let i = 0; i < all.length; i++) {
      const { calls, run, samples } = all[(i + round + WARM_UP) % all.length]
      const start = process.hrtime.bigint()
      run(calls)
      const nanoseconds = Number(process.hrtime.bigint() - start)
      if (round >= 0) samples.push(nanoseconds / calls)
      // Runs finalizers now, not inside the next measurement.
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

/** Makes a loop for each contestant, so that the types of one do not slow another down. */
function loop(call) {
  return new Function('call', 'return (calls) => { for (let i = 0; i < calls; i++) call() }')(call)
}

/** Prints the ratio of two of `measure`'s results; the second is the peer. */
function compare([name, nanoseconds], [peer, itsNanoseconds], reach) {
  print(`${name} : ${peer}`, nanoseconds / itsNanoseconds, reach)
}

function print(title, ratio, reach) {
  const target = reach === undefined ? '' : `  at most ${reach}${ratio <= reach ? '' : ': MISSED'}`
  console.log(`  ${title.padEnd(82)} ${ratio.toFixed(4)}${target}`)
}

function openDescriptors() {
  return readdirSync('/proc/self/fd').length
}

function descriptorLimit() {
  const { soft } = process.report.getReport().userLimits.open_files
  return soft === 'unlimited' ? Infinity : Number(soft)
}
