/** Runs workers that allocate and end. Prints by how much the withheld addresses grew for each way to end. */

import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

import { open } from './open.mjs'

const SIZE = 1 << 22

if (isMainThread) {
  const manager = open()
  const withheld = () => manager.getMemoryUsage().process.addresses.withheld
  const grown = {}
  for (const way of ['deallocate', 'deallocate and exit', 'drop']) {
    const before = withheld()
    const worker = new Worker(new URL(import.meta.url), { workerData: way })
    await new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject))
    grown[way] = (withheld() - before) / SIZE
  }
  console.log(JSON.stringify(grown))
} else {
  const manager = open()
  const buffers = [manager.allocateNPUMemory(SIZE, { dedicated: true }), manager.allocateSystemMemory(SIZE)]
  if (workerData !== 'drop') for (const buffer of buffers) manager.deallocate(buffer)
  else globalThis.kept = buffers
  parentPort.postMessage('done')
  if (workerData.endsWith('exit')) process.exit(0)
}
