/** Moves NPU memory to a worker and back. Uses transfer() first: Node refuses to post an addon's ArrayBuffer. */

import { setImmediate as nextTurn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'

import { open } from './open.mjs'

const manager = open()
const shell = manager.allocateNPUMemory(4096)
new Uint8Array(shell).fill(11)

const worker = new Worker(
  `const { parentPort } = require('node:worker_threads')
   parentPort.once('message', (buffer) => {
     let sum = 0
     for (const byte of new Uint8Array(buffer)) sum += byte
     parentPort.once('message', () => {})
     parentPort.postMessage(sum)
   })`,
  { eval: true },
)
const moved = shell.transfer()
worker.postMessage(moved, [moved])
const sumInWorker = await new Promise((resolve) => worker.once('message', resolve))

const codeOf = () => {
  try {
    manager.deallocate(shell)
  } catch (error) {
    return error.code
  }
}
const during = manager.getMemoryStats()
const result = {
  sumInWorker,
  shell: codeOf(),
  liveWhileInWorker: during.liveAllocations,
  usedWhileInWorker: during.npuUsed,
}

worker.postMessage('done')
await new Promise((resolve) => worker.once('exit', resolve))
for (let i = 0; i < 200 && manager.getMemoryStats().liveAllocations > 0; i++) {
  gc()
  await nextTurn()
}
const after = manager.getMemoryStats()
console.log(JSON.stringify({ ...result, liveAfterwards: after.liveAllocations, usedAfterwards: after.npuUsed }))
