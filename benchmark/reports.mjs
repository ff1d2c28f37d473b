/**
 * Measures how long a report occupies the event loop: the longest turn while each format is written, in processor time
 * of the JavaScript thread, which other load on the machine does not change. The exit status does not depend on it.
 *
 *   node benchmark/reports.mjs [--blocks N] [--buffers N]
 */

import { mkdtempSync, openSync, readSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { MemoryManager } from '../index.js'
import { countsOf, machine } from './options.mjs'

const { blocks, buffers } = countsOf('reports.mjs', {
  blocks: { fallback: 50_000, min: 0, text: 'live blocks of the pool' },
  buffers: { fallback: 0, min: 0, text: 'live buffers' },
})
const GOAL_MS = 20

const manager = new MemoryManager({ backend: 'simulated', profiling: { sampleInterval: 4096 } })
const pool = manager.createMemoryPool({ name: 'kv-cache', kind: 'npu', initialSize: Math.max(1, blocks) * 2048 })
const kept = [
  ...Array.from({ length: blocks }, (_, at) => pool.allocate(1024 + (at % 512), { tag: `layer ${at % 32}` })),
  ...Array.from({ length: buffers }, (_, at) => manager.allocateNPUMemory(4096, { tag: `session ${at % 20}` })),
]

/** Returns the processor time of this thread in ms. */
const schedstat = openSync('/proc/thread-self/schedstat')
const bytes = Buffer.alloc(128)
const cpuMs = () => Number(bytes.toString('latin1', 0, readSync(schedstat, bytes, 0, 128, 0)).split(' ')[0]) / 1e6

/** Runs `act`, and returns the longest turn of the event loop meanwhile. */
async function longestTurn(act) {
  let [longest, last, running, turns] = [0, cpuMs(), true, 0]
  const tick = () => {
    const now = cpuMs()
    longest = Math.max(longest, now - last)
    last = now
    turns++
    if (running) setImmediate(tick)
  }
  setImmediate(tick)
  await act()
  running = false
  await new Promise(setImmediate)
  return { longest, turns }
}

console.log(machine())
console.log(`${kept.length} allocations live; the goal for every turn: ${GOAL_MS} ms\n`)
console.log(`  ${'format'.padEnd(12)} ${'longest turn'.padStart(14)} ${'turns'.padStart(8)} ${'size'.padStart(10)}`)
const directory = mkdtempSync(join(tmpdir(), 'rkllm-benchmark-'))
for (const round of ['first', 'later']) {
  for (const extension of ['.html', '.json', '.csv', '.pb.gz', '.trace.json', '.prom']) {
    const path = join(directory, `report${extension}`)
    const { longest, turns } = await longestTurn(() => manager.writeReport(path))
    const missed = longest > GOAL_MS ? '  MISSED' : ''
    const size = `${(statSync(path).size / 1e6).toFixed(2)} MB`
    console.log(
      `  ${extension.padEnd(12)} ${`${longest.toFixed(1)} ms`.padStart(14)} ${String(turns).padStart(8)} ` +
        `${size.padStart(10)}  ${round}${missed}`,
    )
  }
}
rmSync(directory, { recursive: true })
manager.dispose()
