/** A thread with its own manager, which runs commands from messages and answers each. */

import { parentPort, workerData } from 'node:worker_threads'

import { open } from './open.mjs'

const manager = open(workerData ?? {})
const buffers = []

const verbs = {
  allocate: ({ kind, size, fill, options }) => {
    const buffer =
      kind === 'npu' ? manager.allocateNPUMemory(size, options) : manager.allocateSystemMemory(size, options)
    new Uint8Array(buffer).fill(fill)
    return manager.share(buffers[buffers.push(buffer) - 1])
  },
  adopt: ({ token }) => buffers.push(manager.adopt(token)) - 1,
  read: ({ buffer }) => [...new Set(new Uint8Array(buffers[buffer]))],
  write: ({ buffer, fill }) => void new Uint8Array(buffers[buffer]).fill(fill),
  free: ({ buffer }) => manager.deallocate(buffers[buffer]),
  move: ({ buffer }) => {
    const moved = buffers[buffer].transfer()
    parentPort.postMessage({ moved }, [moved])
  },
  stats: () => manager.getMemoryStats(),
  exit: () => process.exit(0),
}

parentPort.on('message', ({ verb, ...rest }) => {
  try {
    parentPort.postMessage({ result: verbs[verb](rest) })
  } catch (error) {
    parentPort.postMessage({ code: error.code, message: error.message })
  }
})
