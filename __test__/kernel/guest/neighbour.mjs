// A second process allocates in domain 0 while this one opens, probes, allocates, imports and frees in every way. Its
// allocations never fail and never move, the device is in domain 0 afterwards, and nothing switched while opening.
import { spawn, spawnSync } from 'node:child_process'
import { closeSync } from 'node:fs'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { Worker, isMainThread } from 'node:worker_threads'
import { MemoryManager, backend, counters, fail, probeDevices, settled } from './driver.mjs'

const KiB = 1024
const MiB = 1 << 20

let pools = 0

/** Uses a manager in every way that calls the driver. */
async function use(manager, domains) {
  for (const iommuDomain of domains) {
    const buffers = [
      manager.allocateNPUMemory(4 * KiB, { iommuDomain }),
      manager.allocateNPUMemory(256 * KiB, { iommuDomain, dedicated: true }),
      manager.allocateNPUMemory(64 * KiB, { iommuDomain, dedicated: true, cacheable: false }),
      await manager.allocateNPUMemoryAsync(64 * KiB, { iommuDomain, dedicated: true }),
    ]
    for (const buffer of buffers) {
      new Uint8Array(buffer).fill(iommuDomain + 1)
      manager.syncToDevice(buffer)
      manager.syncFromDevice(buffer)
    }
    if (iommuDomain === 0) {
      const { fd } = manager.exportDmaBuf(buffers[1])
      buffers.push(manager.importDmaBuf(fd))
      closeSync(fd)
    }
    if (!buffers.every(buffer => new Uint8Array(buffer).every(byte => byte === iommuDomain + 1))) fail('lost bytes')
    buffers.forEach(buffer => manager.deallocate(buffer))
    const pool = manager.createMemoryPool({
      name: `kv-${++pools}`,
      initialSize: MiB,
      maxSize: 4 * MiB,
      chunkSize: MiB,
      allocation: { iommuDomain },
    })
    const blocks = Array.from({ length: 40 }, () => pool.allocate(64 * KiB))
    blocks.forEach(block => block.free())
    pool.trim()
    manager.destroyMemoryPool(pool)
  }
}

if (!isMainThread) {
  const manager = new MemoryManager({ backend })
  await use(manager, [0])
  manager.dispose()
} else {
  const neighbour = spawn('/host/neighbour', { stdio: ['ignore', 'pipe', 'inherit'] })
  process.once('exit', () => neighbour.kill('SIGKILL'))
  const lines = []
  const ready = new Promise(resolve =>
    createInterface({ input: neighbour.stdout }).on('line', line => (lines.push(line), resolve())),
  )
  const ended = once(neighbour, 'exit')
  await ready

  // Opening and probing.
  for (let round = 0; round < 3; round++) {
    probeDevices()
    new MemoryManager({ backend }).dispose()
    new MemoryManager().dispose()
  }
  const opened = counters()
  if (opened.total_sets !== 0) fail(`${opened.total_sets} switches while opening`)

  const manager = new MemoryManager({ backend })
  const { iommuDomains, driverVersion } = manager.device
  const holds = Number(driverVersion.split('.')[2]) >= 8
  if (iommuDomains !== (holds ? 16 : 1)) fail(`${iommuDomains} domains on ${driverVersion}`)
  if (!holds) {
    try {
      manager.allocateNPUMemory(4 * KiB, { iommuDomain: 1 })
      fail('a second domain was given')
    } catch ({ code, message, driverVersion: named }) {
      if (code !== 'ERR_UNSUPPORTED' || named !== driverVersion || !message.includes(driverVersion))
        fail(`${code}: ${message}`)
    }
  }
  await use(manager, holds ? [0, 5, 0] : [0, 0])
  const child = `
    const { MemoryManager } = require('/repo/index.js')
    const manager = new MemoryManager({ backend: ${JSON.stringify(backend)} })
    manager.allocateNPUMemory(65536, { dedicated: true })
    process.kill(process.pid, 'SIGKILL')`
  if (spawnSync(process.execPath, ['-e', child]).signal !== 'SIGKILL') fail('the child did not kill itself')
  const worker = new Worker(new URL(import.meta.url))
  const [status] = await once(worker, 'exit')
  if (status !== 0) fail(`the worker ended with ${status}`)
  manager.dispose()
  const own = () => Object.entries(counters()).filter(([name, n]) => name === 'live_files' && n > 1)
  for (let left = 100; own().length > 0 && left > 0; left--) await new Promise(resolve => setTimeout(resolve, 50))

  neighbour.kill('SIGTERM')
  const [code] = await ended
  const left = await settled()
  if (left) fail(left)
  const { total_sets: sets, current_domain: domain, elsewhere, violations } = counters()
  if (code !== 0) fail(`the neighbour: ${lines.at(-1)}`)
  if (domain !== 0) fail(`the device was left in domain ${domain}`)
  if (!holds && sets !== 0) fail(`${sets} switches on ${driverVersion}`)
  if (elsewhere || violations) fail(`${elsewhere} calls in another domain, ${violations} violations`)
  console.log(`ok: ${driverVersion}, the neighbour: ${lines.at(-1)}; ${sets} switches of ours, none while opening`)
}
