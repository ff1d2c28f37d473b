// Drops a lease, and waits until the collector has found it.

import { MemoryManager } from '../../../index.js'

const memory = new MemoryManager({ backend: 'simulated' })
const models = memory.createModelResidency({ models: { chat: { ramBytes: 4096, load: () => ({}) } } })
let warning = null
process.on('warning', ({ code }) => (warning = code ?? null))

await (async () => void (await models.acquire('chat')))()
const gc = globalThis.gc ?? (() => globalThis.Bun.gc(true))
for (let turn = 0; turn < 500 && (warning === null || models.stats().models[0].leases > 0); turn++) {
  gc()
  await new Promise((resolve) => setTimeout(resolve, 2))
}
console.log(JSON.stringify({ leases: models.stats().models[0].leases, warning }))
memory.dispose()
