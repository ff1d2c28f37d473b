/** Counts the collections that refused allocations force, by `cleanup.onExhaustion`, for each kind of request. */

import { MemoryManager } from '../../../index.js'

let collections = 0
// The library forces a collection by this function where there is one.
globalThis.gc = () => void collections++

const [backend, device] = process.argv.slice(2)
const PAGE = 16 * 1024
const limits = { npu: { max: PAGE }, system: { max: PAGE } }
const counts = {}
for (const onExhaustion of [true, false]) {
  const manager = new MemoryManager({
    backend, device: device || undefined, slabs: { threshold: 0 }, limits, cleanup: { onExhaustion },
  })
  const other = new MemoryManager({ backend, device: device || undefined })
  const held = manager.allocateNPUMemory(PAGE)
  const pool = manager.createMemoryPool({ name: 'p', kind: 'system', initialSize: PAGE, maxSize: PAGE })
  const full = pool.allocate(PAGE)
  const shared = other.allocateNPUMemory(PAGE)
  const token = other.share(shared)
  const requests = {
    npu: () => manager.allocateNPUMemory(1),
    system: () => manager.allocateSystemMemory(1),
    npuAsync: () => manager.allocateNPUMemoryAsync(1),
    poolAsync: () => pool.allocateAsync(1),
    createPoolAsync: () => manager.createMemoryPoolAsync({ name: 'q', initialSize: PAGE }),
    inferenceAsync: () => manager.createInferenceBuffersAsync({ contextLength: 64, hiddenSize: 64, kind: 'npu' }),
    adoptAsync: () => manager.adoptAsync(token),
  }
  counts[onExhaustion] = {}
  for (const [name, request] of Object.entries(requests)) {
    const before = collections
    let code = 'accepted'
    try {
      await request()
    } catch (error) {
      code = error.code
    }
    counts[onExhaustion][name] = [code, collections - before]
  }
  full.free()
  manager.deallocate(held)
  // Held until here: a collection would end what the token stands for.
  other.deallocate(shared)
  manager.dispose()
  other.dispose()
}
console.log(JSON.stringify(counts))
