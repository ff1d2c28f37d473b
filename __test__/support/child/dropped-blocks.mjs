/** Drops movable blocks, moved ones among them: the collector frees all. */

import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'

const [backend, device] = process.argv.slice(2)
const manager = new MemoryManager({ backend, device: device || undefined, cleanup: { defragmentAbove: null } })
const pool = manager.createMemoryPool({ name: 'kv', kind: 'system', initialSize: 2 ** 20 })

function scatter() {
  const blocks = Array.from({ length: 16 }, () => pool.allocate(16384, { movable: true }))
  for (const block of blocks) new Uint8Array(block.buffer).fill(1)
  blocks.forEach((block, at) => at % 2 && block.free())
  const moved = pool.defragment().moves.length
  // Reads the buffer of one moved block again.
  return { moved, shown: blocks[14].buffer.byteLength }
}

const { moved } = scatter()
const before = pool.stats().liveAllocations
for (let i = 0; i < 200 && pool.stats().liveAllocations > 0; i++) {
  globalThis.gc?.()
  await nextTurn()
}
console.log(JSON.stringify({ before, moved, after: pool.stats().liveAllocations }))
