// The CMA area of a board without an IOMMU fills up, and ordinary pages stand in for it: the driver is never asked for
// more than is free, the figures are true, and the machine keeps its reserve of RAM.
import { readFileSync } from 'node:fs'
import { MemoryError, MemoryManager, backend, counters, fail, settled } from './driver.mjs'

const KiB = 1024
const MiB = 1 << 20

const available = () => Number(/MemAvailable: +(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))[1]) * KiB
const manager = new MemoryManager({ backend, cleanup: { defragmentAbove: null } })

/** Allocates until the manager refuses; returns the error. */
function fill(size, options) {
  const held = []
  for (;;) {
    try {
      held.push(manager.allocateNPUMemory(size, options))
    } catch (error) {
      if (!(error instanceof MemoryError) || error.code !== 'ERR_OUT_OF_MEMORY') throw error
      return { held, error }
    }
  }
}

const before = manager.getNPUMemoryStats()
if (before.cmaTotal !== 256 * MiB || before.total <= before.cmaTotal) fail(`total ${before.total}`)
if (before.available > before.total) fail(`available ${before.available}`)

// Objects that only CMA can give.
const large = fill(8 * MiB, { dedicated: true })
if (large.held.length !== 32) fail(`${large.held.length} objects of 8 MiB`)
if (large.error.scope !== 'cma' || !(large.error.available < 8 * MiB))
  fail(`${large.error.scope} ${large.error.available}: ${large.error.message}`)

// Small ones: slabs come from ordinary pages, without a refused call each.
const creates = counters().total_creates
for (let i = 0; i < 512; i++) manager.allocateNPUMemory(16 * KiB)
const made = counters().total_creates - creates
if (made > 8) fail(`${made} objects for 8 MiB of small buffers`)

// Objects of 4 MiB come from RAM until its reserve.
const small = fill(4 * MiB, { dedicated: true })
const left = available()
if (left < 24 * MiB) fail(`${left} bytes of RAM are left`)
if (!['ram', 'cgroup'].includes(small.error.scope)) fail(`${small.error.scope}: ${small.error.message}`)
const after = manager.getNPUMemoryStats()
if (after.used > after.total || after.available > left) fail(`${after.used} used, ${after.available} available`)
if (counters().beyond_cma !== 0) fail(`${counters().beyond_cma} objects beyond the free CMA area were asked for`)
if (counters().total_from_pages === 0) fail('no object came from ordinary pages')

// An alignment that CMA does not give.
try {
  manager.allocateNPUMemory(64 * KiB, { dedicated: true, alignment: 4 * MiB })
  fail('an alignment of 4 MiB was given')
} catch ({ code, limit, message }) {
  if (code !== 'ERR_UNSUPPORTED' || limit !== MiB) fail(`${code} ${limit}: ${message}`)
}
manager.dispose()
const rest = await settled(20)
if (rest) fail(rest)
const pages = `${small.held.length} of 4 MiB from pages, ${(left / MiB) | 0} MiB of RAM left`
console.log(`ok: ${large.held.length} objects of CMA, ${pages}`)
