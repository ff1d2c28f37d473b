// A job holds domain 0. Opening, probing, and everything in domain 0 go on; only a call in another domain waits for the
// job's end, and times out with ERR_DOMAIN_BUSY. After each call in another domain, the device is back in domain 0.
import { spawnSync } from 'node:child_process'
import { closeSync, readdirSync } from 'node:fs'
import { basename } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { MemoryManager, backend, counters, fail, probeDevices, set, settled } from './driver.mjs'

const WAIT_MS = 200

set('job_wait_ms', WAIT_MS)
set('job_domain', 0)
const took = { [backend]: Infinity, simulated: Infinity }
for (let round = 0; round < 20; round++) {
  probeDevices()
  for (const name of Object.keys(took)) {
    const begun = performance.now()
    const opened = new MemoryManager({ backend: name })
    took[name] = Math.min(took[name], performance.now() - begun)
    opened.dispose()
  }
}
const manager = new MemoryManager({ backend })
const buffer = manager.allocateNPUMemory(65536, { dedicated: true })
manager.syncToDevice(buffer)
const { fd } = manager.exportDmaBuf(buffer)
manager.deallocate(manager.importDmaBuf(fd))
closeSync(fd)
manager.deallocate(buffer)
const idle = await settledBytes()
if (idle) fail(idle)
if (counters().total_waits !== 0) fail(`${counters().total_waits} calls waited for the job`)
if (counters().total_sets !== 0) fail(`${counters().total_sets} switches behind the job`)

// The card and the render node of one NPU are one device with one ledger.
const { path } = manager.device
const [card] = readdirSync(`/sys/class/drm/${basename(path)}/device/drm`).filter(name => name.startsWith('card'))
const other = new MemoryManager({ backend, device: `/dev/dri/${card}` })
const shared = other.allocateNPUMemory(65536, { dedicated: true })
if (manager.getNPUMemoryStats().domains[0].used !== 65536) fail(`${path} and ${card} have ledgers of their own`)
other.deallocate(shared)
other.dispose()

const elsewhere = () => manager.allocateNPUMemory(65536, { dedicated: true, iommuDomain: 3 })
try {
  elsewhere()
  fail('the device left the domain of a running job')
} catch ({ code }) {
  if (code !== 'ERR_DOMAIN_BUSY') fail(`code ${code}`)
}
set('job_domain', -1)

/** Fails if the last call left the device outside domain 0. Only this process and its child use the device. */
function isHome(call) {
  const { current_domain: domain } = counters()
  if (domain !== 0) fail(`${call} left the device in domain ${domain}`)
}
const switches = counters().total_switches
const far = elsewhere()
isHome('an allocation')
manager.syncToDevice(far)
isHome('syncToDevice')
manager.syncFromDevice(far, 4096, 100)
isHome('syncFromDevice')
await manager.syncToDeviceAsync(far)
isHome('syncToDeviceAsync')
// Another process syncs and frees the same object, whose domain it does not know.
const shared3 = manager.exportDmaBuf(far)
const child = `
  const { MemoryManager } = require('/repo/index.js')
  const manager = new MemoryManager({ backend: ${JSON.stringify(backend)} })
  const buffer = manager.importDmaBuf(3)
  manager.syncFromDevice(buffer)
  if (!new Uint8Array(buffer).every(byte => byte === 3)) throw new Error('other bytes')
  manager.deallocate(buffer)
  manager.dispose()`
new Uint8Array(far).fill(3)
manager.syncToDevice(far)
const { status } = spawnSync(process.execPath, ['-e', child], { stdio: ['ignore', 'inherit', 'inherit', shared3.fd] })
if (status !== 0) fail(`the importing process ended with ${status}`)
isHome('the process that imported an object of domain 3')
closeSync(shared3.fd)
manager.deallocate(far)
const gone = await settledBytes()
if (gone) fail(gone)
// The reaper takes the device back after its last destroy.
for (let left = 100; left > 0 && counters().current_domain !== 0; left--) await sleep(20)
isHome('deallocate')
if (counters().total_switches < switches + 12) fail('the driver did not switch for each call in domain 3')
const near = manager.allocateNPUMemory(65536, { dedicated: true })
manager.deallocate(near)
manager.dispose()
const left = await settled()
if (left) fail(left)
if (counters().current_domain !== 0) fail(`the device was left in domain ${counters().current_domain}`)
const [own, simulated] = Object.values(took).map(ms => `${ms.toFixed(2)} ms`)
console.log(`ok: nothing waited for the job; opening takes ${own} at best, the simulated device ${simulated}`)

/** Waits until the driver has no object left; the manager's file stays open. */
async function settledBytes() {
  for (let left = 100; left > 0 && counters().live_objects > 0; left--) await sleep(20)
  return counters().live_objects > 0 ? 'objects are left' : ''
}
