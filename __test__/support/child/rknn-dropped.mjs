/** Drops RKNN memory without `dispose`: first with contexts, which the runtime may use, then without. */

import { readdirSync, readlinkSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'
import { loadRknn } from '../rknn.mjs'

const [file, path] = process.argv.slice(2)
const manager = new MemoryManager({ backend: 'simulated', slabs: { threshold: 0 } })
const library = await loadRknn(path)
const live = () => manager.getMemoryStats().liveAllocations

/** The descriptors of memory: a runtime opens others of its own. */
const openFds = () =>
  readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return /memfd|dmabuf/.test(readlinkSync(`/proc/self/fd/${fd}`))
    } catch {
      return false // that of the folder
    }
  }).length

async function collect(isDone) {
  for (let turns = 0; turns < 200 && !isDone(); turns++) {
    globalThis.gc()
    await turn()
  }
}

const before = openFds()
let handle
/** Loads, keeps what `unload` needs out of reach of the collector's roots, and returns a way to unload. */
function load() {
  const rknn = manager.createRknnMemory({ models: [{ name: 'm', file }] })
  library.makeAll(rknn.load())
  handle = rknn.models.m.contexts[0].handle
  return new WeakRef(rknn)
}
const reference = load()
await turn()
await collect(() => reference.deref() === undefined)
const hasMemory = live() > 0
const run = library.call.rknn_run(handle, 0n)

function unload() {
  library.makeAll(reference.deref().unload())
}
unload()
await turn()
await collect(() => live() === 0)
const isFreed = live() === 0
await collect(() => openFds() <= before)
console.log(
  JSON.stringify({ run, faults: library.counts().faults, hasMemory, isFreed, descriptors: openFds() - before }),
)
process.exit(0)
