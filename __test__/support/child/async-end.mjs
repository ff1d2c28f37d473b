/** Ends a thread or the process during allocations, syncs and frees of a slow driver. */

import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, Worker, workerData } from 'node:worker_threads'

import { MemoryManager } from '../../../index.js'

const end = isMainThread ? process.argv[2] : workerData

function busy() {
  const manager = new MemoryManager({ backend: 'simulated', simulated: { latencyMs: 30 } })
  const held = manager.allocateNPUMemory(4096)
  const quiet = (promise) => void promise.catch(() => {})
  const grows = manager.createMemoryPool({ name: 'grows', initialSize: 0, chunkSize: 2 ** 20, maxSize: 2 ** 28 })
  quiet(manager.createMemoryPoolAsync({ name: 'new', initialSize: 2 ** 20 }))
  quiet(manager.createInferenceBuffersAsync({ kind: 'npu', contextLength: 64, hiddenSize: 64 }))
  for (const movable of [true, false]) quiet(grows.allocateAsync(2 ** 20, { movable, tag: 'x' }))
  quiet(manager.allocateFromPoolAsync('grows', 2 ** 20))
  for (let i = 0; i < 8; i++) {
    quiet(manager.allocateNPUMemoryAsync(2 ** 21))
    quiet(manager.syncToDeviceAsync(held))
  }
  for (const size of [4096, 2 ** 21]) manager.deallocate(manager.allocateNPUMemory(size, { dedicated: true }))
  const disposed = new MemoryManager({ backend: 'simulated', simulated: { latencyMs: 30 } })
  for (let i = 0; i < 300; i++) disposed.allocateNPUMemory(4096)
  quiet(disposed.disposeAsync())
}

if (!isMainThread) {
  busy()
  if (end === 'throw') throw new Error('on purpose')
  if (end === 'exit') process.exit(0)
} else if (end.startsWith('process-')) {
  busy()
  console.log(JSON.stringify({ end }))
  if (end === 'process-exit') process.exit(0)
} else {
  for (let round = 0; round < 4; round++) {
    const worker = new Worker(new URL(import.meta.url), { workerData: end })
    worker.on('error', () => {})
    if (end === 'terminate') {
      await once(worker, 'online')
      await sleep(10 * round)
      await worker.terminate()
    } else {
      await new Promise((resolve) => worker.on('exit', resolve))
    }
  }
  // Late completions find no environment.
  await sleep(500)
  console.log(JSON.stringify({ end }))
}
