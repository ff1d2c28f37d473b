/**
 * How long the event loop stands still while a driver takes 500 ms a call: with the asynchronous calls, with nothing to
 * do, and, for contrast, with the synchronous ones. Prints what `monitorEventLoopDelay` saw; the exit status says
 * nothing of it.
 *
 *   node benchmark/event-loop.mjs [--latency MS] [--seconds N]
 */

import { cpus } from 'node:os'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'

import { MemoryManager } from '../index.js'

const { values } = parseArgs({
  options: { latency: { type: 'string', default: '500' }, seconds: { type: 'string', default: '10' } },
})
const [latencyMs, seconds] = [Number(values.latency), Number(values.seconds)]
const MiB = 2 ** 20
/** A delay is measured from tick to tick of this many ms, and contains them. */
const RESOLUTION = 1

console.log(
  `Node ${process.version}, ${process.arch}, ${cpus().length} × ${cpus()[0]?.model.trim()}; ` +
    `${latencyMs} ms a call, ${seconds} s each\n`,
)
const manager = new MemoryManager({ backend: 'simulated', simulated: { latencyMs } })

await watch('nothing', () => sleep(seconds * 1000))
await watch('asynchronous', (until) => Promise.all(Array.from({ length: 8 }, () => serve(until))))
await watch('synchronous', async (until) => {
  while (performance.now() < until) {
    manager.deallocate(manager.allocateNPUMemory(2 * MiB))
    await sleep(RESOLUTION)
  }
})
manager.dispose()

/**
 * A client: allocates, writes, syncs, looks at the figures, frees; small ones from slabs, large ones each with a kernel
 * object.
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
