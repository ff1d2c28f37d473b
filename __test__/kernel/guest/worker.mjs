// Terminates busy workers: their kernel objects end with them, while the process lives on.
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker, isMainThread, parentPort } from 'node:worker_threads'
import { MemoryManager, alive, backend, counters, fail, settled } from './driver.mjs'

const ROUNDS = 6

if (isMainThread) {
  for (let round = 0; round < ROUNDS; round++) {
    const worker = new Worker(new URL(import.meta.url))
    await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
    if (alive().length === 0) fail('the worker holds nothing')
    await sleep(round * 7)
    await worker.terminate()
    const left = await settled()
    if (left) fail(`round ${round}: after terminate: ${left}`)
  }
  if (counters().violations) fail('violations')
  console.log(`ok: ${ROUNDS} workers terminated, no kernel object left`)
} else {
  const manager = new MemoryManager({ backend })
  const kept = Array.from({ length: 4 }, () => manager.allocateNPUMemory(65536, { dedicated: true }))
  parentPort.postMessage(kept.length)
  for (;;) {
    const buffer = manager.allocateNPUMemory(32768, { dedicated: true })
    new Uint8Array(buffer).fill(1)
    manager.syncToDevice(buffer)
    manager.deallocateNPUMemory(buffer)
  }
}
