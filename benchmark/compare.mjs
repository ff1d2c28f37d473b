/**
 * Compares another checkout of this repository with this one: pairs of allocation and free, in one process, in turn, in
 * CPU time. Both have release builds (`npm run build`).
 *
 *   node benchmark/compare.mjs OTHER [--rounds N] [--only TEXT] [--swap]
 *
 * Prints for each pair the least and the median time of both, and the ratios; `--only`: of the pairs whose names
 * contain TEXT. The checkout that is loaded first gains some per cent at times: `--swap` loads this one first. Then, of
 * this checkout alone, blocks with a tag and zeroed ones beside plain blocks; a zeroed block of 4 KiB includes the time
 * to write 4 KiB.
 */

import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '40' }, only: { type: 'string', default: '' }, swap: { type: 'boolean' },
  },
})
const [other] = positionals
const ROUNDS = Number(values.rounds)
const here = join(fileURLToPath(import.meta.url), '../..')

const checkouts = Object.entries({ ...(other && { other: resolve(other) }), here })
if (values.swap) checkouts.reverse()
const libraries = Object.fromEntries(checkouts.map(([name, checkout]) => [name, load(checkout)]))

/** Loads a checkout with its own binary: copies of one version would share one. */
function load(checkout) {
  for (const symbol of Object.getOwnPropertySymbols(globalThis)) {
    if (symbol.description?.startsWith('@rkllmjs/memory')) delete globalThis[symbol]
  }
  process.env.NAPI_RS_NATIVE_LIBRARY_PATH = join(checkout, `src/js/rkllm-memory.linux-${process.arch}-gnu.node`)
  const library = createRequire(import.meta.url)(checkout)
  delete process.env.NAPI_RS_NATIVE_LIBRARY_PATH
  return library
}

const open = (library, options) => new library.MemoryManager({ backend: 'simulated', ...options })

/** Makes a pair of a pool with 50 live blocks. */
function poolPair(size, options) {
  return (library) => {
    const pool = open(library).createMemoryPool({ name: 'p', initialSize: 64 << 20 })
    for (let i = 0; i < 50; i++) pool.allocate(65536)
    return options === undefined ? () => pool.allocate(size).free() : () => pool.allocate(size, options).free()
  }
}

/** Makes a pair of ArrayBuffers. */
function bufferPair(options, allocate) {
  return (library) => {
    const manager = withOptions((known) => open(library, known), options)
    return () => manager.deallocate(allocate(manager))
  }
}

/** Makes a pair of ArrayBuffers in a pool with 50 live blocks. */
function poolBufferPair(options) {
  return (library) => {
    const manager = open(library)
    const create = (known) => manager.createMemoryPool({ name: 'p', initialSize: 64 << 20, ...known })
    const pool = withOptions(create, options)
    for (let i = 0; i < 50; i++) pool.allocate(65536)
    return () => manager.deallocate(manager.allocateFromPool('p', 4096))
  }
}

// name: [calls, turns of the event loop a round, maker]
const pairs = {
  'pool.allocate(4096) + free': [20_000, 1, poolPair(4096)],
  'allocateNPUMemory(4096) + deallocate, in slabs': [200, 10, bufferPair({}, (from) => from.allocateNPUMemory(4096))],
  'the same, reuseAfterMs: 0': [
    200, 10, bufferPair({ slabs: { reuseAfterMs: 0 } }, (from) => from.allocateNPUMemory(4096)),
  ],
  'allocateSystemMemory(16 KiB) + deallocate': [200, 10, bufferPair({}, (from) => from.allocateSystemMemory(16_384))],
  'allocateNPUMemory(1 MiB) + deallocate, a kernel object each': [
    100, 4, bufferPair({ slabs: { threshold: 0 } }, (from) => from.allocateNPUMemory(1 << 20)),
  ],
  "allocateFromPool('p', 4096) + deallocate": [200, 10, poolBufferPair({})],
  "allocateFromPool('p', 4096) + deallocate, reuseAfterMs: 0": [200, 10, poolBufferPair({ reuseAfterMs: 0 })],
}
if (libraries.other) {
  console.log('CPU time, ns: the other checkout → this one (least, median)')
  for (const [name, [calls, turns, make]] of Object.entries(pairs)) {
    if (!name.includes(values.only)) continue
    const made = Object.fromEntries(checkouts.map(([each]) => [each, make(libraries[each])]))
    const { other, here } = await measure(made, calls, turns)
    print(name, other, here)
  }
}

console.log('\nCPU time, ns: a plain block → another block, in this checkout (least, median)')
for (const size of [64, 4096]) {
  for (const options of [{ tag: 'kv' }, { zeroed: true }, { tag: 'kv', zeroed: true }]) {
    const name = `pool.allocate(${size}, ${Object.keys(options).join(' and ')}) + free`
    if (!name.includes(values.only)) continue
    const made = { plain: poolPair(size)(libraries.here), with: poolPair(size, options)(libraries.here) }
    const { plain, with: other } = await measure(made, 20_000, 1)
    print(name, plain, other)
  }
}
process.exit(0)

/** Calls `make` with options, or without them in an older checkout that lacks one. */
function withOptions(make, options) {
  try {
    return make(options)
  } catch (error) {
    if (!error.code?.startsWith('ERR_INVALID_ARG')) throw error
    return make({})
  }
}

/** Measures contestants in turn. Returns the sorted times of each, in ns a call. */
async function measure(contestants, calls, turns) {
  const all = Object.entries(contestants).map(([name, call]) => ({ name, run: loop(call), times: [] }))
  // Slabs have all the slabs that may wait after some seconds.
  for (const end = performance.now() + (turns > 1 ? 3000 : 300); performance.now() < end; await nextTurn()) {
    all.forEach(({ run }) => run(calls))
  }
  for (let round = 0; round < ROUNDS; round++) {
    if (round % 2) all.reverse()
    for (const { run, times } of all) {
      const start = process.cpuUsage()
      for (let turn = 0; turn < turns; turn++) {
        run(calls)
        await nextTurn()
      }
      const { user, system } = process.cpuUsage(start)
      times.push(((user + system) * 1000) / calls / turns)
    }
  }
  return Object.fromEntries(all.map(({ name, times }) => [name, times.sort((a, b) => a - b)]))
}

/** Makes a loop for each contestant, so that the types of one do not slow another down. */
function loop(call) {
  return new Function('call', 'return (calls) => { for (let i = 0; i < calls; i++) call() }')(call)
}

function print(name, [least, ...rest], [ownLeast, ...ownRest]) {
  const median = (times) => times[times.length >> 1]
  const pair = (from, to) =>
    `${from.toFixed(0).padStart(6)} →${to.toFixed(0).padStart(6)}  ${(to / from).toFixed(2)}`
  console.log(name.padEnd(62), pair(least, ownLeast), ' ', pair(median(rest), median(ownRest)))
}
