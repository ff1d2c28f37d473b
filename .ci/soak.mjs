// Simulates hours of use in half a minute, and checks that descriptors, mappings, resident memory and
// address space do not grow. It prints them every tenth of the cycles:
//   node --expose-gc .ci/soak.mjs [cycles] [workers]      default: 1,000,000 and 500

import { setImmediate as nextTurn } from 'node:timers/promises'

import { collected } from '../benchmark/soak/footprint.mjs'
import { ENDS, runWorker } from '../benchmark/soak/workers.mjs'
import { MemoryManager } from '../index.js'

const [cycles = 1_000_000, workers = 500] = process.argv.slice(2).map(Number)
const MiB = 1 << 20

async function printFootprint(cycle) {
  const { fds, maps, rss, vm } = await collected()
  const MiBs = [rss, vm].map((bytes) => (bytes / MiB).toFixed(0))
  console.log(`  ${cycle} cycles: fds ${fds}, maps ${maps}, rss ${MiBs[0]} MiB, vm ${MiBs[1]} MiB`)
}

/** Runs `count` cycles of random verbs with some hundred live buffers. */
async function mixed(count, seed) {
  let state = seed
  const below = (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
  const manager = new MemoryManager({ backend: 'simulated' })
  const pool = manager.createMemoryPool({ name: 'pool', initialSize: 4 * MiB, maxSize: 64 * MiB })
  const live = new Array(200).fill(undefined)
  for (let i = 0; i < count; i++) {
    if (i > 0 && i % (cycles / 10) === 0) await printFootprint(i)
    const at = below(live.length)
    const old = live[at]
    if (old !== undefined) {
      if (old.free) old.free()
      else if (i % 16 > 0) manager.deallocate(old)
      // Otherwise the collector frees it.
    }
    const size = 1 << (6 + below(11))
    const kind = below(20)
    if (kind < 10) live[at] = pool.allocate(size, { movable: kind === 0 })
    else if (kind < 15) live[at] = manager.allocateNPUMemory(size)
    else if (kind < 16) live[at] = manager.allocateNPUMemory(size, { dedicated: true })
    else if (kind < 17) live[at] = manager.allocateSystemMemory(size)
    else if (kind < 18) live[at] = manager.allocateFromPool(pool, size)
    else if (kind < 19)
      live[at] = old && !old.free && old.byteLength > 0 ? manager.adopt(manager.share(old)) : undefined
    else live[at] = undefined
    if (i % 1000 === 0) await nextTurn()
    if (i % 100_000 === 0) pool.defragment()
  }
  const { liveAllocations } = manager.getMemoryStats()
  manager.dispose()
  return liveAllocations
}

/** Runs `count` threads that end with live buffers: by themselves, by process.exit, terminated. */
async function threads(count) {
  const manager = new MemoryManager({ backend: 'simulated' })
  const token = manager.share((globalThis.shared = manager.allocateNPUMemory(65536, { dedicated: true })))
  for (let i = 0; i < count; i += ENDS.length)
    await Promise.all(ENDS.slice(0, count - i).map((end) => runWorker(token, end)))
  manager.dispose()
}

/** Rounds in which a figure may grow before it counts as a leak. Retired address ranges take time to merge. */
const TRIES = 3

let failed = false
async function soak(what, warm, run, tolerance) {
  await warm()
  for (let tries = 1; ; tries++) {
    const before = await collected()
    const began = performance.now()
    await run()
    const seconds = (performance.now() - began) / 1000
    let after = await collected()
    // Idle threads of the pool and the kernel's pressure triggers end with a delay.
    for (let i = 0; i < 20 && (after.fds > before.fds || after.maps > before.maps + tolerance.maps); i++)
      after = await collected()
    const line = (name, unit) => `${name} ${(before[name] / unit).toFixed(0)} → ${(after[name] / unit).toFixed(0)}`
    const lines = [line('fds', 1), line('maps', 1), `${line('rss', MiB)} MiB`, `${line('vm', MiB)} MiB`]
    console.log(`${what}: ${seconds.toFixed(1)} s; ${lines.join(', ')}`)
    const grown = after.fds > before.fds || ['maps', 'rss', 'vm'].some((of) => after[of] > before[of] + tolerance[of])
    if (!grown) return
    if (tries === TRIES) {
      console.log(`FAILED: ${what}: usage grew ${TRIES} times in a row`)
      failed = true
      return
    }
  }
}

await soak(`${cycles} cycles`, () => mixed(cycles / 10, 1), () => mixed(cycles, 2), {
  maps: 50,
  rss: 32 * MiB,
  vm: 256 * MiB,
})
await soak(`${workers} threads`, () => threads(20), () => threads(workers), {
  maps: 50,
  rss: 64 * MiB,
  // Threads that run at the same time have stacks and heaps of their own.
  vm: 4096 * MiB,
})
process.exit(failed ? 1 : 0)
