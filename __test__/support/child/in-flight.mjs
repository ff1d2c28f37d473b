/**
 * Frees buffers while an operation of the runtime reads or writes them. The runtime keeps only a pointer: a reused
 * address would crash it, or receive its writes. Arguments: the operations to try, and
 * "slices" for slices of slabs.
 */

import { execFileSync } from 'node:child_process'
import { randomFill } from 'node:crypto'
import { constants, mkdtempSync, openSync, read, rmSync, write, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { promisify } from 'node:util'
import { brotliCompress, deflate } from 'node:zlib'

import { open } from './open.mjs'

/** Slices wait before their bytes are used again; memory of its own leaves zero pages. */
const slices = process.argv[3] === 'slices'
const manager = open(slices ? {} : { slabs: { threshold: 0 } })
let neighbourIntact = true
let rounds = 0

if (process.argv[2] === 'waiting-read') await waitingRead()
else await runningOperations()
console.log(JSON.stringify({ neighbourIntact, rounds }))

async function runningOperations() {
  const size = slices ? 512 * 1024 : 4 * 1024 * 1024
  const sink = openSync('/dev/null', 'w')
  // Node 20 asserts inside zlib when any code detaches the buffer of a running operation.
  const zlibSurvives = Number(process.versions.node.split('.')[0]) > 20
  // Deno fills in steps, and throws an uncatchable error when the buffer is freed between two of them.
  const fillSurvives = process.versions.deno === undefined
  const operations = [
    ...(fillSurvives ? [(bytes) => promisify(randomFill)(bytes)] : []),
    (bytes) => promisify(write)(sink, bytes),
    ...(zlibSurvives ? [(bytes) => promisify(deflate)(bytes), (bytes) => promisify(brotliCompress)(bytes)] : []),
  ]
  for (let i = 0; i < 3; i++) {
    for (const operation of operations) {
      for (const allocate of ['allocateNPUMemory', 'allocateSystemMemory']) {
        const bytes = new Uint8Array(manager[allocate](size))
        const pending = operation(bytes)
        const freed = free(bytes)
        const neighbour = new Uint8Array(manager[allocate](size)).fill(0x77)
        await pending.catch(() => {})
        look(neighbour)
        manager.deallocate(neighbour)
        if (!freed) manager.deallocate(bytes)
        rounds++
      }
    }
  }
}

/** Frees the buffer of a waiting read, and allocates others. */
async function waitingRead() {
  const directory = mkdtempSync(join(tmpdir(), 'rkllm-'))
  const fifo = join(directory, 'fifo')
  execFileSync('mkfifo', [fifo])
  const fd = openSync(fifo, constants.O_RDWR)
  for (const allocate of ['allocateNPUMemory', 'allocateSystemMemory']) {
    const bytes = new Uint8Array(manager[allocate](65536))
    const pending = promisify(read)(fd, bytes, 0, 4096, null)
    // Waits until a pool thread blocks in read().
    await wait(50)
    free(bytes)
    const neighbours = Array.from({ length: 16 }, () => new Uint8Array(manager[allocate](65536)).fill(0x77))
    writeSync(fd, Buffer.alloc(4096, 0xee))
    await pending.catch(() => {})
    for (const neighbour of neighbours) {
      look(neighbour)
      manager.deallocate(neighbour)
    }
    rounds++
  }
  rmSync(directory, { recursive: true })
}

/** Frees a buffer under an operation. Node detaches it; Bun pins it and refuses. */
function free(bytes) {
  try {
    manager.deallocate(bytes)
    return true
  } catch (error) {
    if (error.code !== 'ERR_BUFFER_BUSY') throw error
    return false
  }
}

function look(neighbour) {
  neighbourIntact &&= neighbour.every((byte) => byte === 0x77)
}
