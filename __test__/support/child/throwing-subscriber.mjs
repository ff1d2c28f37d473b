/** Subscribers that throw: the allocation succeeds all the same, and the runtime reports the error. */

import { subscribe } from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'

const reported = []
process.on('uncaughtException', (error) => reported.push(error.message))

const manager = new MemoryManager({ backend: 'simulated' })
const pool = manager.createMemoryPool({ name: 'kv', initialSize: 65536 })
for (const name of ['allocate', 'free']) {
  subscribe(`rkllm-memory:${name}`, () => {
    throw new Error(name)
  })
}
const buffer = manager.allocateNPUMemory(4096)
const block = pool.allocate(64)
const lengths = [buffer.byteLength, block.size]
manager.deallocate(buffer)
block.free()
const live = manager.getMemoryStats().liveAllocations + pool.stats().liveAllocations
await sleep(10)
console.log(JSON.stringify({ lengths, live, reported }))
manager.dispose()
