/**
 * Measures how long the event loop stands still while a driver takes 500 ms a call: with the asynchronous calls, idle,
 * and, for contrast, with the synchronous ones. Prints the figures of `monitorEventLoopDelay`; the exit status does not
 * depend on them.
 *
 *   node benchmark/event-loop.mjs [--latency MS] [--seconds N]
 */

import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

import { MemoryManager } from '../index.js'
import { countsOf, machine } from './options.mjs'

const { latency: latencyMs, seconds } = countsOf('event-loop.mjs', {
  latency: { fallback: 500, min: 0, text: "milliseconds of a driver's call" },
  seconds: { fallback: 10, text: 'seconds of each measurement' },
})
const MiB = 2 ** 20
/** Milliseconds from tick to tick. A measured delay contains them. */
const RESOLUTION = 1

console.log(`${machine()}; ${latencyMs} ms a call, ${seconds} s each\n`)
const manager = new MemoryManager({ backend: 'simulated', simulated: { latencyMs } })

await watch('idle', () => sleep(seconds * 1000))
await watch('asynchronous', (until) => Promise.all(Array.from({ length: 8 }, () => serve(until))))
await watch('synchronous', async (until) => {
  while (performance.now() < until) {
    manager.deallocate(manager.allocateNPUMemory(2 * MiB))
    await sleep(RESOLUTION)
  }
})
manager.dispose()

/**
 * Plays a client: allocates, writes, syncs, reads statistics, frees. Small buffers are slices of slabs, large ones
 * kernel objects.
 */
async function serve(until) {
  for (let round = 0; performance.now() < until; round++) {
    const buffer = await manager.allocateNPUMemoryAsync(round % 2 ? 2 * MiB : 64 * 1024)
    new Uint8Array(buffer, 0, 4096).fill(round)
    await manager.syncToDeviceAsync(buffer)
    manager.getMemoryStats()
    manager.deallocate(buffer)
    await sleep(RESOLUTION)
  }
}

async function watch(name, work) {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION })
  delay.enable()
  await work(performance.now() + seconds * 1000)
  delay.disable()
  const ms = (nanoseconds) => (nanoseconds / 1e6 - RESOLUTION).toFixed(2).padStart(9)
  console.log(
    `${name.padEnd(14)} p50 ${ms(delay.percentile(50))}  p99 ${ms(delay.percentile(99))}  max ${ms(delay.max)} ms`,
  )
}
