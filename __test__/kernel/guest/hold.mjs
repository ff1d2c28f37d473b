// Allocates, syncs, exports and frees buffers of every sort until lib.sh kills the process.
import { closeSync } from 'node:fs'
import { MemoryManager, backend } from './driver.mjs'

const manager = new MemoryManager({ backend })
const kept = []
function one(size, dedicated) {
  const buffer = manager.allocateNPUMemory(size, { dedicated })
  new Uint8Array(buffer).fill(7)
  manager.syncToDevice(buffer)
  return buffer
}
for (let i = 0; i < 8; i++) {
  kept.push(one(65536, true), one(4096, false))
  manager.exportDmaBuf(kept[0])
}
console.log('holding')
for (let i = 0; ; i++) {
  const buffer = one(16384 + i % 64 * 4096, i % 2 === 0)
  closeSync(manager.exportDmaBuf(buffer).fd)
  manager.deallocateNPUMemory(buffer)
}
