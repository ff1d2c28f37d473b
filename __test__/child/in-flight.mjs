/**
 * Frees buffers while an operation of the runtime still reads or writes them. The runtime keeps only a pointer: if the address were given
 * back it would crash, or write into memory that somebody else got since.
 */

import { execFileSync } from 'node:child_process'
import { randomFill } from 'node:crypto'
import { constants, mkdtempSync, open as openFile, openSync, read, rmSync, write, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { brotliCompress, deflate } from 'node:zlib'

import { open } from './open.mjs'

const SIZE = 4 * 1024 * 1024
// Node 20 asserts inside zlib when the buffer of a running operation is detached by whomever: nothing that memory management can mend.
const zlibSurvives = Number(process.versions.node.split('.')[0]) > 20

const manager = open()
const directory = mkdtempSync(join(tmpdir(), 'rkllm-'))
const fifo = join(directory, 'fifo')
execFileSync('mkfifo', [fifo])
const sink = openSync('/dev/null', 'w')

const operations = [
  (bytes) => promisify(randomFill)(bytes),
  (bytes) => promisify(write)(sink, bytes),
  ...(zlibSurvives ? [(bytes) => promisify(deflate)(bytes), (bytes) => promisify(brotliCompress)(bytes)] : []),
]

let rounds = 0
for (let i = 0; i < 3; i++) {
  for (const operation of operations) {
    for (const allocate of ['allocateNPUMemory', 'allocateSystemMemory']) {
      const bytes = new Uint8Array(manager[allocate](SIZE))
      const pending = operation(bytes)
      // Bun pins buffers under an operation and says ERR_BUFFER_BUSY; Node lets go of them.
      const freed = attempt(() => manager.deallocate(bytes))
      const neighbour = new Uint8Array(manager[allocate](SIZE)).fill(0x77)
      await pending.catch(() => {})
      if (!neighbour.every((byte) => byte === 0x77)) fail()
      manager.deallocate(neighbour)
      if (freed !== undefined) manager.deallocate(bytes)
      rounds++
    }
  }
}

// A read that waits for data while its buffer goes, and somebody else comes.
const reader = await promisify(openFile)(fifo, constants.O_RDWR)
for (const allocate of ['allocateNPUMemory', 'allocateSystemMemory']) {
  const bytes = new Uint8Array(manager[allocate](65536))
  const pending = promisify(read)(reader, bytes, 0, 4096, null)
  await new Promise((resolve) => setTimeout(resolve, 50))
  attempt(() => manager.deallocate(bytes))
  const neighbours = Array.from({ length: 16 }, () => new Uint8Array(manager[allocate](65536)).fill(0x77))
  writeSync(reader, Buffer.alloc(4096, 0xee))
  await pending.catch(() => {})
  for (const neighbour of neighbours) {
    if (!neighbour.every((byte) => byte === 0x77)) fail()
    manager.deallocate(neighbour)
  }
  rounds++
}

rmSync(directory, { recursive: true })
console.log(JSON.stringify({ neighbourIntact: true, rounds }))

function attempt(call) {
  try {
    call()
  } catch (error) {
    return error
  }
}

function fail() {
  console.log(JSON.stringify({ neighbourIntact: false, rounds }))
  process.exit(0)
}
