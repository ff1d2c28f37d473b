/** Marks a buffer as untransferable: from Node 24 on it cannot be detached, and forcing it would abort the process. */

import { writeSync } from 'node:fs'
import { markAsUntransferable } from 'node:worker_threads'

import { open } from './open.mjs'

const manager = open()
const buffer = manager.allocateNPUMemory(4096)
new Uint8Array(buffer).fill(1)
markAsUntransferable(buffer)
let code = null
try {
  manager.deallocate(buffer)
} catch (error) {
  code = error.code
}
const attached = buffer.byteLength > 0
const intact = attached && new Uint8Array(buffer).every((byte) => byte === 1)
const live = manager.getMemoryStats().liveAllocations
manager.dispose()
writeSync(1, `${JSON.stringify({ code, attached, intact, live })}\n`)
// Node 24 and 26 abort at exit with such a live buffer: exit without their cleanup.
process.reallyExit(0)
