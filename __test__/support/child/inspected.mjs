/**
 * Runs inspectable managers until standard input ends. Prints "ready" when they listen. Arguments: the number of
 * managers; "worker" for one more in a thread; "busy" to block the event loop for good; "exit" to end by process.exit;
 * "alone" to end at once.
 */

import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, Worker, workerData } from 'node:worker_threads'

import { MemoryManager } from '../../../index.js'

const MiB = 1 << 20
const words = isMainThread ? process.argv.slice(2) : workerData
const count = isMainThread ? Number(words[0] ?? 1) : 1
const sockets = join(process.env.XDG_RUNTIME_DIR, 'rkllm-memory')
const listening = () =>
  existsSync(sockets) ? readdirSync(sockets).filter((name) => name.startsWith(`${process.pid}-`)).length : 0

const managers = Array.from({ length: count }, (_, at) => {
  const manager = new MemoryManager({ backend: 'simulated', inspect: true })
  const pool = manager.createMemoryPool({ name: 'kv', kind: 'npu', initialSize: 4 * MiB, tag: 'kv-cache' })
  const kept = [
    manager.allocateNPUMemory((at + 1) * 2 * MiB, { tag: 'weights\x1b[31m', iommuDomain: 1 }),
    pool.allocate(MiB),
  ]
  return { manager, kept }
})

if (isMainThread) {
  const expected = count + (words.includes('worker') ? 1 : 0)
  if (words.includes('worker')) new Worker(new URL(import.meta.url), { workerData: words.slice(1) }).unref()
  for (let tries = 0; listening() < expected && tries < 500; tries++) await sleep(10)
  console.log(listening() >= expected ? 'ready' : 'no socket')
  if (words.includes('busy')) for (;;);
  if (!words.includes('alone'))
    process.stdin
      .on('end', () => (words.includes('exit') ? process.exit(0) : (process.exitCode = managers.length > 0 ? 0 : 1)))
      .resume()
} else {
  // An idle thread would end, and its socket with it.
  setInterval(() => managers.length, 1000)
}
