/** Threads that hold memory of the package and end in one of three ways. */

import { Worker } from 'node:worker_threads'

const SOURCE = `
  const { parentPort, workerData } = require('node:worker_threads')
  import(workerData.index).then(({ MemoryManager }) => {
    const manager = new MemoryManager({ backend: 'simulated' })
    globalThis.kept = Array.from({ length: 20 }, (_, i) => {
      const size = 5000 * (i + 1)
      return i % 2 ? manager.allocateNPUMemory(size) : manager.allocateSystemMemory(size)
    })
    kept.forEach((buffer) => new Uint8Array(buffer).fill(1))
    kept.push(manager.adopt(workerData.token))
    parentPort.postMessage('ready')
    if (workerData.end === 'exit') process.exit(0)
    if (workerData.end === 'terminate') setInterval(() => {}, 1000)
  })`

/** How threads end with live buffers: by `process.exit`, terminated, by themselves. */
export const ENDS = ['exit', 'terminate', 'ends', 'terminate']

/** Runs one thread, which adopts `token`, to its end. */
export async function runWorker(token, end) {
  const index = new URL('../../index.js', import.meta.url).href
  const worker = new Worker(SOURCE, { eval: true, workerData: { index, token, end } })
  const ended = new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject))
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  if (end === 'terminate') await worker.terminate()
  await ended
}
