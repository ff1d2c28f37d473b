/** Allocates by an asynchronous verb and drops every buffer, under a limit with room for two. */

import { MemoryManager } from '../../../index.js'

const [backend, device, verb = 'npu'] = process.argv.slice(2)
const MiB = 2 ** 20
const options = { backend, device: device || undefined, slabs: { threshold: 0 } }
const manager = new MemoryManager({ ...options, limits: { npu: { max: 4 * MiB } } })
const other = new MemoryManager(options)
const shared = other.allocateNPUMemory(2 * MiB)
const token = other.share(shared)
const pool = verb === 'pool' && manager.createMemoryPool({ name: 'p', initialSize: 4 * MiB, reuseAfterMs: 0 })
let created = 0

/** Returns a function that frees what was allocated, or nothing for what the collector frees. */
const verbs = {
  npu: async () => void (await manager.allocateNPUMemoryAsync(2 * MiB)),
  pool: async () => void (await manager.allocateFromPoolAsync(pool, 2 * MiB)),
  adopt: async () => void (await manager.adoptAsync(token)),
  async create() {
    const made = await manager.createMemoryPoolAsync({ name: `${created++}`, initialSize: 2 * MiB })
    return () => manager.destroyMemoryPool(made)
  },
  async inference() {
    const made = await manager.createInferenceBuffersAsync({ contextLength: 2048, hiddenSize: 128, kind: 'npu' })
    return () => made.dispose()
  },
}

/** Fills the limit with garbage. */
function drop() {
  try {
    for (;;) manager.allocateNPUMemory(2 * MiB)
  } catch {
    // The limit is reached, or the manager has collected what it could.
  }
}

let allocated = 0
for (let i = 0; i < 20; i++) {
  const free = await verbs[verb]()
  allocated++
  if (free === undefined) continue
  free()
  drop()
}
const kept = pool
  ? [await manager.allocateFromPoolAsync(pool, 2 * MiB), await manager.allocateFromPoolAsync(pool, 2 * MiB)]
  : [await manager.allocateNPUMemoryAsync(2 * MiB), await manager.allocateNPUMemoryAsync(2 * MiB)]
const refused = await verbs[verb]().then(() => 'nothing', ({ code }) => code)
console.log(JSON.stringify({ refused, allocated: kept.length === 2 && shared.byteLength > 0 && allocated }))
