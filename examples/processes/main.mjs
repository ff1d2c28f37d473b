#!/usr/bin/env node
/**
 * Runs two processes on one memory. A camera fills frames; a model reads them and writes its answers behind them. No
 * byte is copied: the dma-buf descriptor of each frame's buffer goes over the Unix socket, as from V4L2.
 *
 *   node examples/processes/main.mjs                    runs both, and checks every byte
 *   node examples/processes/main.mjs model SOCKET       runs the model alone: start it first, in a terminal of its own
 *   node examples/processes/main.mjs camera SOCKET      runs the camera alone
 * It runs on the simulated device; with RKLLM_BACKEND=rknpu on an NPU.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

import { closeDmaBuf, DmaBufInbox, MemoryManager, sendDmaBuf } from '../../index.js'

const FRAME = 640 * 480 * 3
/** The answer to a frame follows it, in a cache line of its own. */
const BUFFER = FRAME + 64
const BUFFERS = 4
const FRAMES = 200

const open = () => new MemoryManager({ backend: process.env.RKLLM_BACKEND ?? 'simulated' })
/** Returns the value of every byte of a frame. */
const shade = (frame) => (frame * 31) & 0xff

async function camera(socket) {
  const memory = open()
  const replies = new DmaBufInbox(`${socket}.replies`)
  // Dedicated objects: the receiver of a slice's descriptor could map the neighbours as well.
  const buffers = Array.from({ length: BUFFERS }, () =>
    memory.allocateNPUMemory(BUFFER, { dedicated: true, tag: 'frames' }),
  )
  let wrong = 0
  for (let frame = 0; frame < FRAMES; frame++) {
    const buffer = buffers[frame % BUFFERS]
    new Uint8Array(buffer, 0, FRAME).fill(shade(frame))
    memory.syncToDevice(buffer)
    const piece = memory.exportDmaBuf(buffer)
    await sendDmaBuf(socket, piece, `frame ${frame}`)
    closeDmaBuf(piece.fd) // the message has a descriptor of its own
    const answer = await replies.receive()
    closeDmaBuf(answer.fd)
    memory.syncFromDevice(buffer, FRAME)
    if (answer.message !== `answer ${frame}` || new DataView(buffer, FRAME).getFloat64(0) !== shade(frame) * FRAME)
      wrong++
  }
  const { fd } = memory.exportDmaBuf(buffers[0])
  await sendDmaBuf(socket, fd, 'end')
  closeDmaBuf(fd)
  replies.close()
  console.log(`camera: ${FRAMES} frames of ${FRAME} bytes in ${BUFFERS} buffers, ${wrong} answers wrong`)
  memory.dispose()
  return wrong === 0
}

async function model(socket) {
  const memory = open()
  const inbox = new DmaBufInbox(socket)
  let most = 0
  const imports = []
  for (let end = false; !end; ) {
    const { fd, offset, size, message } = await inbox.receive()
    end = message === 'end'
    if (!end) {
      // The same buffer arrives many times. It is the same memory each time, counted once in its domain.
      const buffer = memory.importDmaBuf(fd, { offset, size, tag: 'frames' })
      if (imports.push(buffer) > 2 * BUFFERS) memory.deallocate(imports.shift())
      most = Math.max(most, memory.getNPUMemoryStats().domains[0]?.used ?? 0)
      memory.syncFromDevice(buffer)
      let sum = 0
      for (const byte of new Uint8Array(buffer, 0, FRAME)) sum += byte
      new DataView(buffer, FRAME).setFloat64(0, sum)
      memory.syncToDevice(buffer, FRAME)
      await sendDmaBuf(`${socket}.replies`, { fd, offset, size }, message.replace('frame', 'answer'))
    }
    closeDmaBuf(fd) // the import holds the memory, not this descriptor
  }
  inbox.close()
  console.log(
    `model: ${imports.length} imports at a time, ${most} bytes in the IOMMU domain, ` +
      `${(most / BUFFER).toFixed(1)} buffers’ worth`,
  )
  memory.dispose()
  return true
}

/** Runs both, each in a process of its own. */
async function both() {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-processes-'))
  const socket = join(folder, 'frames')
  const start = (role) => {
    const child = spawn(process.execPath, [...process.execArgv, fileURLToPath(import.meta.url), role, socket], {
      stdio: 'inherit',
    })
    return once(child, 'exit')
  }
  try {
    const ends = [start('model')]
    while (!existsSync(socket)) await sleep(10)
    ends.push(start('camera'))
    return (await Promise.all(ends)).every(([status]) => status === 0)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const [role, socket] = process.argv.slice(2)
const roles = { camera, model }
if (role !== undefined && (!(role in roles) || socket === undefined)) {
  console.error('usage: main.mjs [camera|model SOCKET]')
  process.exitCode = 2
} else {
  const right = await (role === undefined ? both() : roles[role](socket))
  process.exitCode = right ? 0 : 1
}
