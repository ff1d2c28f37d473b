/** Runs workers that allocate and end without freeing. argv names the way. */

import { readdirSync, readlinkSync } from 'node:fs'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

import { open } from './open.mjs'

const WORKERS = 8

if (isMainThread) {
  const manager = open()
  const mine = new Uint8Array(manager.allocateNPUMemory(65536)).fill(0x5a)
  // The first worker opens descriptors that stay open: those of the runtime's threads.
  await runWorker()
  const before = memoryFds()
  for (let i = 1; i < WORKERS; i++) await runWorker()
  for (let i = 0; i < 10; i++) await nextTurn()
  // Deno ends a terminated environment with a delay, and a driver may be slow.
  for (let i = 0; i < 1000 && memoryFds().length > before.length; i++) await sleep(5)
  const fds = memoryFds().slice(before.length)
  console.log(JSON.stringify({ mineIntact: mine.every((byte) => byte === 0x5a), fds, workers: WORKERS }))
  manager.dispose()
} else {
  const manager = open()
  const kept = Array.from({ length: 20 }, (_, i) => manager.allocateNPUMemory(4096 * (i + 1)))
  kept.forEach((buffer) => new Uint8Array(buffer).fill(0xff))
  manager.deallocate(kept.pop())
  globalThis.kept = kept
  parentPort.postMessage('allocated')
  if (workerData === 'exit') process.exit(0)
  if (workerData === 'throw') throw new Error('on purpose')
  if (workerData === 'terminate') setInterval(() => {}, 1000)
}

async function runWorker() {
  const end = process.argv[2]
  const worker = new Worker(new URL(import.meta.url), { workerData: end })
  worker.on('error', () => {})
  // Not events.once, which would settle at 'error', before 'exit'.
  const ended = new Promise((resolve) => worker.once('exit', resolve))
  await new Promise((resolve) => worker.once('message', resolve))
  if (end === 'terminate') await worker.terminate()
  await ended
}

function memoryFds() {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`)
      return /memfd|dmabuf|dri|rknpu|dma_heap/.test(target) ? [target] : []
    } catch {
      return []
    }
  })
}
