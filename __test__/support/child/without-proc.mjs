/** Prints the figures of a process that cannot read /proc, and the places where one of them is NaN. */

import { freemem, totalmem } from 'node:os'

import { MemoryManager } from '../../../index.js'

const manager = new MemoryManager({ backend: 'simulated' })
const buffer = manager.allocateNPUMemory(4096)
const usage = manager.getMemoryUsage()
const { npuTotal, systemTotal } = manager.getMemoryStats()
const places = []
const walk = (value, path) => {
  if (Number.isNaN(value)) places.push(path)
  if (typeof value === 'object' && value !== null)
    for (const [name, inner] of Object.entries(value)) walk(inner, `${path}.${name}`)
}
walk(usage, 'usage')
const { rss, openFds, maxFds, maps, maxMaps } = usage.process
const { total, available, cgroup, pressure } = usage.system
const none = { rss, openFds, maxFds, maps, maxMaps, systemRss: usage.system.rss, cgroup, pressure }
const metrics = manager.metrics().split('\n').filter((line) => / NaN$/.test(line))
manager.deallocate(buffer)
manager.dispose()
const memory = { total, systemTotal, npuTotal, available, npuAvailable: usage.npu.available }
console.log(JSON.stringify({ none, places, metrics, memory, machine: { total: totalmem(), free: freemem() } }))
