/** Profiles and drops a manager: the collector frees it, and the process ends by itself. */

import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'

let collected = false
const registry = new FinalizationRegistry(() => (collected = true))

function drop() {
  const manager = new MemoryManager({ backend: 'simulated', profiling: { leakAfterMs: 10 } })
  manager.allocateSystemMemory(100)
  registry.register(manager)
}
drop()
for (let i = 0; i < 50 && !collected; i++) {
  globalThis.gc?.()
  await nextTurn()
}
globalThis.kept = new MemoryManager({ backend: 'simulated', profiling: { leakAfterMs: 10 } })
console.log(JSON.stringify({ ended: true, collected }))
