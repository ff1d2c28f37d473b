/**
 * Measures compaction (bytes moved and time) and the cost of limits. Each figure stands beside its peer or its goal;
 * the exit status does not depend on them.
 *
 *   node --expose-gc benchmark/compaction.mjs [--rounds N]
 *   taskset -c 1 node ...    without a second thread that copies
 */

import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../index.js'
import { countsOf, machine } from './options.mjs'

const [KiB, MiB] = [1024, 2 ** 20]
const { rounds: ROUNDS } = countsOf('compaction.mjs', { rounds: { fallback: 11, text: 'measurements of each case' } })
const BLOCKS = 10_000

console.log(`${machine()}, ${ROUNDS} rounds\n`)

const median = (list) => list.slice().sort((a, b) => a - b)[list.length >> 1]
const quantile = (list, share) =>
  list.slice().sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * share))]
const quiet = { backend: 'simulated', cleanup: { defragmentAbove: null } }

await onDemand()
await inTheBackground()
await limits()

/**
 * Makes 10,000 blocks, frees every second one and compacts the rest. Any order of moves moves at least a quarter of the
 * blocks.
 */
async function onDemand() {
  for (const [size, seen] of [[64 * KiB, false], [64 * KiB, true], [16 * KiB, false], [16 * KiB, true]]) {
    const [rates, moved, left, copies] = [[], [], [], []]
    for (let round = 0; round < ROUNDS; round++) {
      const { manager, pool } = await scattered(quiet, size, seen)
      const { bytesMoved, fragmentationAfter, durationMs } = pool.defragment()
      rates.push(bytesMoved / durationMs)
      moved.push(bytesMoved / ((BLOCKS / 4) * size))
      left.push(fragmentationAfter)
      manager.dispose()
      copies.push(await memcpy(bytesMoved, size))
    }
    const [rate, copy] = [median(rates), median(copies)]
    console.log(
      `${BLOCKS} blocks of ${size / KiB} KiB, every second freed; ` +
        `${seen ? 'each with an ArrayBuffer to detach' : 'no ArrayBuffers'}`,
    )
    print('  fragmentation afterwards', median(left), 0.02)
    print('  bytes moved : the minimum of any order of moves', median(moved), 1.05)
    const GBs = (bytesPerMs) => (bytesPerMs / 1e6).toFixed(2)
    print(`  ${GBs(rate)} GB/s : memcpy of as many blocks, ${GBs(copy)} GB/s`, rate / copy, undefined, 0.8)
  }
}

async function scattered(options, size, seen = true) {
  const manager = new MemoryManager(options)
  const pool = manager.createMemoryPool({
    name: 'kv',
    kind: 'system',
    initialSize: BLOCKS * size,
    allocation: { prefault: true },
  })
  const blocks = Array.from({ length: BLOCKS }, () => pool.allocate(size, { movable: true }))
  if (seen) blocks.forEach((block) => new Uint8Array(block.buffer).fill(1))
  blocks.forEach((block, at) => at % 2 && block.free())
  globalThis.gc?.()
  await nextTurn()
  return { manager, pool, blocks }
}

/** Returns bytes a ms of copying blocks of the same size within an equally large memory. */
async function memcpy(bytes, size) {
  const memory = Buffer.alloc(BLOCKS * size, 1)
  globalThis.gc?.()
  await nextTurn()
  const began = performance.now()
  for (let at = 0; at < bytes; at += size) {
    const from = memory.length - size - at * 2
    memory.copy(memory, at * 2 + size, from, from + size)
  }
  return bytes / (performance.now() - began)
}

/**
 * Compacts the same pool in the background. Measures the turns of the event loop that have a slice, and turns that only
 * compute.
 */
async function inTheBackground() {
  const [slices, peers] = [[], []]
  for (let round = 0; round < ROUNDS; round++) {
    const { manager } = await scattered({ backend: 'simulated' }, 16 * KiB)
    let moves = 0
    manager.on('relocated', () => moves++)
    for (let idle = 0; idle < 100; ) {
      const [began, before] = [performance.now(), moves]
      await nextTurn()
      const took = performance.now() - began
      if (moves === before) {
        if (moves > 0) idle += took
        continue
      }
      slices.push(took)
      idle = 0
      peers.push(await busy(0.5))
    }
    manager.dispose()
  }
  const ms = (value) => value.toFixed(2)
  console.log(`\nThe same in the background, ${(slices.length / ROUNDS).toFixed(0)} slices a pool`)
  console.log(
    `  a turn that computes for 0.5 ms: p50 ${ms(quantile(peers, 0.5))}, p99 ${ms(quantile(peers, 0.99))}, ` +
      `max ${ms(Math.max(...peers))}: the machine's part`,
  )
  print(
    `  a turn with a slice, ms: p50 ${ms(quantile(slices, 0.5))}, max ${ms(Math.max(...slices))}; p99`,
    quantile(slices, 0.99),
    2,
  )
}

/** Takes one turn of the event loop and computes in it for `ms`. */
async function busy(ms) {
  const began = performance.now()
  await nextTurn()
  for (const from = performance.now(); performance.now() - from < ms; );
  return performance.now() - began
}

/**
 * Measures allocate + free with and without limits of every kind. `cargo bench --bench pool` measures allocations
 * outside pools.
 */
async function limits() {
  const without = new MemoryManager(quiet)
  const bounded = new MemoryManager({
    ...quiet,
    limits: {
      npu: { max: 2 ** 40 },
      system: { max: 2 ** 40 },
      total: { max: 2 ** 40 },
      tags: { kv: { max: 2 ** 40 } },
    },
  })
  const contestants = [without, bounded].flatMap((manager, which) => {
    const pool = manager.createMemoryPool({ name: 'kv', kind: 'system', initialSize: 64 * MiB, tag: 'kv' })
    return [{ which, what: 'pool.allocate(4 KiB) + free()', calls: 20_000, call: () => pool.allocate(4 * KiB).free() }]
  })
  contestants.forEach((one) => (one.samples = []))
  for (let round = -2; round < ROUNDS * 9; round++) {
    for (let i = 0; i < contestants.length; i++) {
      const { calls, call, samples } = contestants[(i + round + 2) % contestants.length]
      const began = process.hrtime.bigint()
      for (let n = 0; n < calls; n++) call()
      if (round >= 0) samples.push(Number(process.hrtime.bigint() - began) / calls)
      await nextTurn()
    }
  }
  console.log()
  for (const { what, samples } of contestants.filter(({ which }) => which === 0)) {
    const limited = contestants.find((other) => other.which === 1 && other.what === what)
    const [free, bound] = [median(samples), median(limited.samples)]
    print(`${what}: ${free.toFixed(0)} ns, with limits ${bound.toFixed(0)} ns; difference, ns`, bound - free, 10)
  }
  without.dispose()
  bounded.dispose()
}

function print(title, figure, most, least) {
  const goal =
    most !== undefined
      ? `  at most ${most}${figure <= most ? '' : ': MISSED'}`
      : `  at least ${least}${figure >= least ? '' : ': MISSED'}`
  console.log(`${title.padEnd(96)} ${figure.toFixed(4).padStart(9)}${goal}`)
}
