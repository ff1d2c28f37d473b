// Caches that are not coherent, and a driver that maintains them for whole buffers: an invalidate for one slice keeps
// what the CPU wrote into its neighbours, synced or not.
import { closeSync } from 'node:fs'
import { MemoryManager, backend, counters, fail, settled } from './driver.mjs'

const KiB = 1024
const manager = new MemoryManager({ backend })
const intact = (buffer, byte) => new Uint8Array(buffer).every(value => value === byte)

// Slices of one slab, then of one pool, then parts of one dedicated buffer.
const pool = manager.createMemoryPool({ name: 'kv', initialSize: 256 * KiB })
for (const allocate of [() => manager.allocateNPUMemory(16 * KiB), () => pool.allocate(16 * KiB).buffer]) {
  const [written, received, synced] = [allocate(), allocate(), allocate()]
  new Uint8Array(synced).fill(3)
  manager.syncToDevice(synced)
  new Uint8Array(written).fill(1)
  manager.syncFromDevice(received)
  manager.syncFromDevice(synced)
  if (!intact(written, 1)) fail('an invalidate dropped what the CPU wrote into a neighbour')
  if (!intact(synced, 3)) fail('synced bytes were lost')
  manager.syncToDevice(written)
  manager.syncFromDevice(written)
  if (!intact(written, 1)) fail('a clean did not reach the device')
}
const dedicated = manager.allocateNPUMemory(64 * KiB, { dedicated: true })
new Uint8Array(dedicated).fill(9)
manager.syncFromDevice(dedicated, 4096, 4096)
if (!intact(dedicated, 9)) fail('an invalidate of a part dropped the rest')

// A second view, through the exported fd, sees what was cleaned.
const { fd } = manager.exportDmaBuf(dedicated)
manager.syncToDevice(dedicated)
const again = manager.importDmaBuf(fd)
manager.syncFromDevice(again)
if (!intact(again, 9)) fail('an import shows other bytes')
closeSync(fd)
manager.dispose()
const left = await settled()
if (left) fail(left)
if (counters().violations) fail('violations')
console.log('ok: neighbours keep their bytes')
