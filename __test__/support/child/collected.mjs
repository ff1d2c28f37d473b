/** Drops buffers and collects garbage. Needs --expose-gc. */

import { setImmediate as nextTurn } from 'node:timers/promises'

import { fdsAtMost, open, openFds } from './open.mjs'

const BUFFERS = 200

// No slabs: the test counts kernel objects.
const manager = open({ slabs: { threshold: 0 } })
await settle(() => false, 5)
const fds = openFds()

function dropThem() {
  for (let i = 0; i < BUFFERS; i++) {
    const buffer =
      i % 2
        ? manager.allocateNPUMemory(8192, { tag: 'dropped' })
        : manager.allocateSystemMemory(8192, { tag: 'dropped' })
    new Uint8Array(buffer).fill(1)
  }
  return manager.getMemoryStats().liveAllocations
}
const liveBefore = dropThem()
await settle(() => manager.getMemoryStats().liveAllocations === 0)
while (manager.getNPUMemoryStats().pendingFree > 0) await nextTurn()

const { liveAllocations, npuUsed, systemUsed } = manager.getMemoryStats()
const { npu, tags } = manager.getMemoryUsage()
const result = {
  liveBefore,
  after: { liveAllocations, npuUsed, systemUsed },
  frees: tags.dropped?.totalFrees ?? npu.totalFrees + manager.getSystemMemoryStats().totalFrees,
  objects: npu.objects,
  fdsLeft: fdsAtMost(fds) - fds,
}

const view = new Uint8Array(manager.allocateNPUMemory(4096), 1000, 10).fill(6)
await settle(() => false, 20)
result.keptByView = view.every((byte) => byte === 6) && manager.getMemoryStats().liveAllocations === 1

function ofADroppedManager() {
  return new Uint8Array(open().allocateNPUMemory(4096)).fill(4)
}
const orphan = ofADroppedManager()
await settle(() => false, 20)
result.outlivedManager = orphan.length === 4096 && orphan.every((byte) => byte === 4)

console.log(JSON.stringify(result))

async function settle(done, turns = 200) {
  for (let i = 0; i < turns && !done(); i++) {
    gc()
    await nextTurn()
  }
}
