/**
 * Measures memory management, each figure beside a peer measured in the same run, in turn, so that other load on the
 * machine affects both. Prints medians and their ratio, without a verdict.
 *
 *   node --expose-gc benchmark/memory.mjs [--rounds N]
 */

import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../index.js'
import { countsOf, machine, roundsOf } from './options.mjs'

const MiB = 1024 * 1024
const { rounds: ROUNDS } = countsOf('memory.mjs', { rounds: { fallback: 300, text: 'measurements of each case' } })
const WARM_UP = Math.ceil(ROUNDS / 10)

const manager = new MemoryManager({ backend: 'simulated' })

console.log(`${machine()}, ${ROUNDS} rounds`)
console.log(`node ${process.execArgv.join(' ')} benchmark/memory.mjs --rounds ${ROUNDS}\n`)

// V8 frees the memory of the peers when it collects. It collects here, between the rounds, so that neither side pays
// for the other.
const collect = globalThis.gc ?? (() => {})

await compare('NPU memory of 16 MiB', {
  'allocateNPUMemory + deallocate': () => manager.deallocate(manager.allocateNPUMemory(16 * MiB)),
  'new Uint8Array(16 MiB).fill(0)': () => new Uint8Array(16 * MiB).fill(0),
})

await compare('NPU memory of 16 MiB, every byte written', {
  'allocateNPUMemory + fill(1) + deallocate': () => {
    const buffer = manager.allocateNPUMemory(16 * MiB)
    new Uint8Array(buffer).fill(1)
    manager.deallocate(buffer)
  },
  'new Uint8Array(16 MiB).fill(1)': () => new Uint8Array(16 * MiB).fill(1),
})

await compare('system memory of 1 MiB', {
  'allocateSystemMemory + deallocate': () => manager.deallocate(manager.allocateSystemMemory(MiB)),
  'new ArrayBuffer(1 MiB)': () => new ArrayBuffer(MiB),
})

await compare('system memory of 1 MiB, every byte written', {
  'allocateSystemMemory + fill(1) + deallocate': () => {
    const buffer = manager.allocateSystemMemory(MiB)
    new Uint8Array(buffer).fill(1)
    manager.deallocate(buffer)
  },
  'new Uint8Array(1 MiB).fill(1)': () => new Uint8Array(MiB).fill(1),
})

await compare('NPU memory of 4 KiB, an object of its own', {
  'allocateNPUMemory + deallocate': () => manager.deallocate(manager.allocateNPUMemory(4096, { dedicated: true })),
  'new ArrayBuffer(4 KiB)': () => new ArrayBuffer(4096),
})

const [few, many] = [holding(1_000), holding(20_000)]
await compare('getMemoryStats', {
  'with 20,000 live buffers': repeated(() => many.getMemoryStats()),
  'with 1,000 live buffers': repeated(() => few.getMemoryStats()),
})
few.dispose()
many.dispose()
manager.dispose()

/** Times two contestants in turn and prints them; the second is the peer. */
async function compare(title, contestants) {
  const samples = Object.values(contestants).map(() => [])
  const functions = Object.values(contestants).map((run) => run.calls ?? run)
  for (const round of roundsOf(-WARM_UP, ROUNDS, title)) {
    // The order alternates too.
    for (let i = 0; i < functions.length; i++) {
      const which = (i + round + WARM_UP) % functions.length
      const start = process.hrtime.bigint()
      functions[which]()
      const nanoseconds = Number(process.hrtime.bigint() - start)
      if (round >= 0) samples[which].push(nanoseconds)
      // Runs finalizers now, not inside the next measurement.
      await nextTurn()
    }
    if (round % 50 === 0) collect()
  }

  const batch = Object.values(contestants)[0].batch ?? 1
  const results = samples.map((each) => {
    each.sort((a, b) => a - b)
    return { median: each[each.length >> 1] / batch, p99: each[Math.floor(each.length * 0.99)] / batch }
  })
  console.log(title)
  Object.keys(contestants).forEach((name, i) => {
    const { median, p99 } = results[i]
    console.log(`  ${name.padEnd(42)} median ${microseconds(median)}   p99 ${microseconds(p99)}`)
  })
  console.log(`  ratio of the medians${' '.repeat(29)}${(results[0].median / results[1].median).toFixed(3)}\n`)
}

/** Times 100 calls, because one is too short for the clock. */
function repeated(call) {
  const calls = () => {
    for (let i = 0; i < 100; i++) call()
  }
  return { calls, batch: 100 }
}

/** Returns a manager with `count` live buffers, of system memory, which takes no file descriptors. */
function holding(count) {
  const holder = new MemoryManager({ backend: 'simulated' })
  holder.buffers = Array.from({ length: count }, (_, i) => holder.allocateSystemMemory(4096, { tag: `tag ${i % 10}` }))
  return holder
}

function microseconds(nanoseconds) {
  return `${(nanoseconds / 1000).toFixed(nanoseconds < 100_000 ? 2 : 0)} µs`.padStart(11)
}
