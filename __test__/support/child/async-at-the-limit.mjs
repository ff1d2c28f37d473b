/** Allocates and drops every buffer, under a limit with room for two. */

import { MemoryManager } from '../../../index.js'

const [backend, device] = process.argv.slice(2)
const MiB = 2 ** 20
const manager = new MemoryManager({ backend, device: device || undefined, limits: { npu: { max: 4 * MiB } } })
let allocated = 0
for (let i = 0; i < 20; i++) allocated += (await manager.allocateNPUMemoryAsync(2 * MiB)).byteLength / (2 * MiB)
const kept = [await manager.allocateNPUMemoryAsync(2 * MiB), await manager.allocateNPUMemoryAsync(2 * MiB)]
const refused = await manager.allocateNPUMemoryAsync(2 * MiB).catch(({ code }) => code)
console.log(JSON.stringify({ refused, allocated: kept.length === 2 && allocated }))
