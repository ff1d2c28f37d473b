/** Drops pinned blocks, a pinned session, and a thread with a pinned block. Needs --expose-gc. */

import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'

import { unpinDropped } from '../../../index.js'
import { open } from './open.mjs'

const manager = open()
const pool = manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: 1 << 20 })
const leaks = []
manager.on('leak', (leak) => leaks.push(leak))
// No sample: the pins alone tell.
manager.enableMemoryProfiling({ leakAfterMs: 1, sampleInterval: 2 ** 40 })

async function until(done) {
  for (let turn = 0; turn < 400 && !done(); turn++) {
    gc()
    await sleep(5)
  }
}

const kept = pool.allocate(4096)
kept.pin()
;(() => {
  const [plain, viewed] = [pool.allocate(4096, { tag: 'job' }), pool.allocate(4096, { tag: 'job' })]
  plain.pin()
  plain.pin()
  viewed.pin()
  new Uint8Array(viewed.buffer).fill(1)
})()
await until(() => manager.getMemoryStats().droppedPinnedBlocks === 2)
const { pinnedBlocks, droppedPinnedBlocks, droppedPinnedBytes } = manager.getMemoryStats()
const metrics = manager.metrics().split('\n').filter((line) => /^rkllm_memory_pinned/.test(line))
const blocks = manager.takeSnapshot().pools[0].chunkMaps[0].blocks.filter(({ id }) => id !== null)
await until(() => leaks.filter(({ dropped }) => dropped).length >= 2)
const dropped = leaks.filter((leak) => leak.dropped)
for (const { id } of dropped) unpinDropped(id)
await until(() => pool.stats().liveAllocations === 1)
const live = pool.stats().liveAllocations
const [{ pinned, dropped: gone, size, tag, pool: name }] = dropped

// A session stays with its pool until each of its blocks is unpinned.
;(() => manager.createInferenceBuffers({ kind: 'system', contextLength: 64, hiddenSize: 8, name: 's' }).pin())()
const session = () => manager.getMemoryUsage().pools.find(({ name: of }) => of === 's')
const pinnedOf = () =>
  manager.takeSnapshot().pools.find(({ name: of }) => of === 's')?.chunkMaps.flatMap(({ blocks: all }) => all) ?? []
const lostAll = (list) => list.some((block) => block.dropped) && list.every((block) => !block.pinned || block.dropped)
await until(() => lostAll(pinnedOf()))
const before = session() !== undefined
for (const { id, dropped: lost } of pinnedOf()) if (lost) unpinDropped(id)
await until(() => session() === undefined)
const after = session() !== undefined

const worker = new Worker(
  `const { parentPort } = require('node:worker_threads')
   import(${JSON.stringify(new URL('../../../index.js', import.meta.url).href)}).then(({ MemoryManager }) => {
     const pool = new MemoryManager({ backend: 'simulated' }).createMemoryPool({
       name: 'w', kind: 'system', initialSize: 65536,
     })
     const block = pool.allocate(4096)
     block.pin()
     parentPort.postMessage(block.id)
   })`,
  { eval: true },
)
const id = await new Promise((resolve) => worker.once('message', resolve))
await worker.terminate()
const orphans = () => manager.getMemoryUsage().pinned
await until(() => orphans().orphanedBlocks === 1)
const { orphanedBlocks, orphanedBytes } = orphans()
unpinDropped(id)
const thread = { orphanedBlocks, orphanedBytes, after: orphans().orphanedBlocks }

console.log(
  JSON.stringify({
    stats: { pinnedBlocks, droppedPinnedBlocks, droppedPinnedBytes },
    metrics,
    blocks: blocks.map((block) => block.dropped).sort(),
    leaks: [{ pinned, dropped: gone, size, tag, pool: name }, dropped.length],
    session: { before, after },
    live,
    thread,
  }),
)
kept.unpin()
manager.dispose()
