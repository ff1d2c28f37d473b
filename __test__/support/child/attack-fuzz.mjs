/**
 * Moves, holds and frees memory by every route of JavaScript, at random. Arguments: seed, seconds. Buffers that only
 * this program writes keep their bytes, and no handle is left open. Needs --expose-gc.
 */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { randomFill, subtle } from 'node:crypto'
import { once } from 'node:events'
import { constants, openSync, read, rmSync, write, writeSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { markAsUntransferable, Worker } from 'node:worker_threads'

import { closeDmaBuf, unpinDropped } from '../../../index.js'
import { open, openFiles } from './open.mjs'

const [seed, seconds] = process.argv.slice(2).map(Number)
const { deno, bun } = process.versions
const node = deno || bun ? 0 : Number(process.versions.node.split('.')[0])
const canTransfer = typeof ArrayBuffer.prototype.transfer === 'function'
const environment = {
  backend: process.env.RKLLM_TEST_BACKEND ?? 'simulated',
  device: process.env.RKLLM_TEST_DEVICE || undefined,
}

let state = seed >>> 0
const below = (limit) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return Math.floor((state / 2 ** 32) * limit)
}
const pick = (list) => list[below(list.length)]

const sink = openSync('/dev/null', 'w')
const zero = openSync('/dev/zero', 'r')
const fifo = openFifo()
/** Reads of `fifo` that wait. */
let quiet = 0
const before = openFiles()
let manager = open()
let pool
const counts = {}
const refusals = {}
/** buffer → { mark: the value of its bytes, own: no other holder has its bytes, alone: no slice } */
let live = new Map()
const pending = new Set()
/** The places of pinned blocks that the program dropped: { id, pool, start, end } */
let pinned = []
const workers = new Set()
let nextMark = 0

const holds = (buffer, mark) => {
  if (buffer.byteLength === 0) return false
  const bytes = new Uint8Array(buffer)
  return bytes[0] === mark && bytes[bytes.length >> 1] === mark && bytes[bytes.length - 1] === mark
}
function keep(buffer, more) {
  const { address } = manager.describe(buffer)
  const meets = ({ start, end }) => address < end && address + BigInt(buffer.byteLength) > start
  assert.ok(!pinned.some(meets), 'a buffer has the place of a pinned block')
  const mark = 1 + (nextMark++ % 250)
  new Uint8Array(buffer).fill(mark)
  live.set(buffer, { mark, alone: false, ...more })
  return buffer
}
const some = () => (live.size === 0 ? undefined : pick([...live.keys()]))
const CODES = /^ERR_(BUFFER_BUSY|BUFFER_TRANSFERRED|BUFFER_FREED|UNKNOWN_BUFFER|POOL_EXHAUSTED|POOL_BUSY|UNSUPPORTED)$/
function may(call) {
  try {
    return call()
  } catch (error) {
    if (!CODES.test(error.code)) throw error
    refusals[error.code] = (refusals[error.code] ?? 0) + 1
  }
}
const quietly = (call) => {
  try {
    return call()
  } catch {
    return undefined
  }
}
const wait = (promise) => {
  const one = Promise.resolve(promise).catch(() => {}).then(() => pending.delete(one))
  pending.add(one)
}

const ECHO = `
  const { parentPort } = require('node:worker_threads')
  parentPort.on('message', (buffer) => {
    try { parentPort.postMessage(buffer, [buffer]) } catch { parentPort.postMessage(null) }
  })`
const HOLDER = `
  const { parentPort, workerData } = require('node:worker_threads')
  import(workerData.index).then(({ MemoryManager }) => {
    const manager = new MemoryManager(workerData.environment)
    globalThis.kept = []
    parentPort.on('message', ({ token, exit }) => {
      if (exit) return process.exit(0)
      try {
        kept.push(manager.adopt(token))
        if (kept.length % 3 === 0) manager.deallocate(kept.shift())
        kept.push(manager.allocateNPUMemory(1 + kept.length * 5000))
      } catch (error) {
        if (error.code !== 'ERR_BUFFER_FREED') throw error
      }
    })
    parentPort.postMessage('ready')
  })`
function worker(source) {
  const made = new Worker(source, {
    eval: true,
    workerData: { index: new URL('../../../index.js', import.meta.url).href, environment },
  })
  made.on('error', (error) => {
    console.error(error)
    process.exit(1)
  })
  workers.add(made)
  made.once('exit', () => workers.delete(made))
  return made
}
let echo = startEcho()
let holder
function startEcho() {
  const made = worker(ECHO)
  made.away = 0
  made.on('message', (buffer) => {
    made.away--
    if (buffer?.byteLength > 0) live.set(buffer, { mark: new Uint8Array(buffer)[0], foreign: true })
  })
  return made
}
/** Waits for the thread's messages: Deno 2.9 loses unreceived messages of a terminated thread. */
async function ready(echo) {
  while (deno && echo.away > 0) await sleep(1)
}

/** Opens both ends of a FIFO; undefined where the machine has no `mkfifo`. */
function openFifo() {
  const path = join(tmpdir(), `rkllm-fuzz-${process.pid}`)
  if (spawnSync('mkfifo', [path]).status !== 0) return undefined
  const [from, to] = [1, 2].map(() => openSync(path, constants.O_RDWR))
  rmSync(path)
  return { from, to }
}

let server
async function listening() {
  const made = createServer({ allowHalfOpen: false }, (socket) => socket.on('error', () => {}))
  made.unref()
  made.listen(0, '127.0.0.1')
  await once(made, 'listening')
  return made
}
/**
 * Reads all that a client receives. `write` has the times of the free and of the write's end: bytes of others are an
 * error unless the write took longer than freed slices wait. A busy loop, or a busy machine, makes it that long.
 */
async function received(client, mark, write) {
  for await (const chunk of client) if (!chunk.every((byte) => byte === mark || byte === 0)) write.foreign = true
  sends.push(write)
}
/** The default of `reuseAfterMs`. */
const REUSE_AFTER = 2000
const sends = []

const routes = {
  allocate: () => void keep(manager.allocateNPUMemory(pick([1, 4096, 30_000, 65536, 1_500_000])), { waits: true }),
  dedicated: () =>
    void keep(manager.allocateNPUMemory(pick([1, 4096, 65536, 1_500_000]), { dedicated: true }), { alone: true }),
  system: () => void keep(manager.allocateSystemMemory(pick([1, 4096, 65536, 1_500_000])), { alone: true }),
  fromPool() {
    pool ??= manager.createMemoryPool({ name: `p${nextMark}`, initialSize: 1 << 20, maxSize: 4 << 20 })
    const buffer = may(() => pool.allocateBuffer(pick([64, 4096, 20_000])))
    if (buffer) keep(buffer, { pool })
  },
  exportAndMove() {
    pool ??= manager.createMemoryPool({ name: `p${nextMark}`, initialSize: 1 << 20, maxSize: 4 << 20 })
    const [hole, block] = [1, 2].map(() => may(() => pool.allocate(pick([64, 4096]), { movable: true })))
    if (!hole || !block) return
    block.pin()
    const { fd, offset, size } = manager.exportDmaBuf(block.buffer)
    const twin = manager.importDmaBuf(fd, { offset, size })
    closeDmaBuf(fd)
    block.unpin()
    new Uint8Array(twin).fill(251)
    hole.free()
    pool.defragment()
    assert.ok(holds(block.buffer, 251), 'an exported block was moved')
    new Uint8Array(block.buffer).fill(252)
    assert.ok(holds(twin, 252), 'an importer sees other bytes')
    manager.deallocate(twin)
    may(() => block.free())
  },
  pinAndDrop() {
    pool ??= manager.createMemoryPool({ name: `p${nextMark}`, initialSize: 1 << 20, maxSize: 4 << 20 })
    const options = pick([undefined, { tag: 't' }, { zeroed: true }, { movable: true }])
    const block = may(() => pool.allocate(pick([64, 4096, 20_000]), options))
    if (!block) return
    block.pin()
    const { id, address } = manager.describe(block)
    pinned.push({ id, pool, start: address, end: address + BigInt(block.size) })
    pick([
      () => {},
      () => block.buffer,
      () => quietly(() => block.buffer.transfer(pick([0, 8, block.size]))),
      () => quietly(() => structuredClone(block.buffer, { transfer: [block.buffer] })),
      () => may(() => manager.deallocate(block.buffer)),
      () => may(() => block.free()),
    ])()
  },
  unpinDropped() {
    const one = pinned.length > 0 && pick(pinned)
    if (!one) return
    try {
      unpinDropped(one.id)
    } catch (error) {
      // The collector has not seen the block yet.
      if (error.code !== 'ERR_BUFFER_BUSY') throw error
      return
    }
    pinned = pinned.filter((other) => other !== one)
  },
  movable() {
    pool ??= manager.createMemoryPool({ name: `p${nextMark}`, initialSize: 1 << 20, maxSize: 4 << 20 })
    const block = may(() => pool.allocate(pick([64, 4096]), { movable: true }))
    if (block) live.set(keep(block.buffer, { pool, block }), { ...live.get(block.buffer) })
  },
  compact() {
    pool?.defragment()
    for (const [buffer, info] of live) {
      if (!info.block || buffer.byteLength > 0) continue
      live.delete(buffer)
      if (!info.block.freed) live.set(info.block.buffer, info)
    }
  },
  endPool() {
    if (!pool) return
    if (pick([true, false])) pool.reset()
    else manager.destroyMemoryPool(pool, { force: true })
    for (const [buffer, info] of live) if (info.pool === pool && !info.shared) live.delete(buffer)
    pinned = []
    if (pool.destroyed) pool = undefined
  },
  free() {
    const buffer = some()
    if (!buffer) return
    may(() => manager.deallocate(buffer))
    if (buffer.byteLength === 0) live.delete(buffer)
  },
  drop: () => void live.delete(some()),
  transfer() {
    const buffer = some()
    if (!canTransfer || !buffer || live.get(buffer).block) return
    const moved = quietly(() => buffer.transfer())
    if (!moved || moved === buffer) return
    live.set(moved, live.get(buffer))
    live.delete(buffer)
  },
  resize() {
    const buffer = some()
    // Node 22 crashes on this for a buffer from another thread.
    if (!canTransfer || !buffer || live.get(buffer).foreign) return
    quietly(() => buffer.transfer(pick([0, 1, buffer.byteLength + 1])))
    if (buffer.byteLength === 0) live.delete(buffer)
  },
  clone() {
    const buffer = some()
    if (!buffer || live.get(buffer).block) return
    const clone = quietly(() => structuredClone(buffer, { transfer: [buffer] }))
    if (buffer.byteLength > 0) return
    if (clone?.byteLength > 0) live.set(clone, live.get(buffer))
    live.delete(buffer)
  },
  post() {
    const buffer = some()
    if (!buffer || live.get(buffer).block) return
    const moved = (canTransfer && quietly(() => buffer.transfer())) || buffer
    if (moved !== buffer) {
      live.set(moved, live.get(buffer))
      live.delete(buffer)
    }
    if (quietly(() => (echo.postMessage(moved, [moved]), true))) echo.away++
    if (moved.byteLength === 0) live.delete(moved)
  },
  async byob() {
    const buffer = some()
    if (!buffer || live.get(buffer).block) return
    const info = live.get(buffer)
    live.delete(buffer)
    const stream = new ReadableStream({
      type: 'bytes',
      pull(controller) {
        const { view } = controller.byobRequest
        new Uint8Array(view.buffer, view.byteOffset, view.byteLength).fill(info.mark)
        controller.byobRequest.respond(view.byteLength)
      },
    })
    const { value } =
      (await quietly(() =>
        stream
          .getReader({ mode: 'byob' })
          .read(new Uint8Array(buffer))
          ?.catch(() => ({})),
      )) ?? {}
    const back = value?.buffer ?? buffer
    if (back.byteLength > 0) live.set(back, info)
  },
  mark() {
    // Node 24 and later abort at exit with such a live buffer.
    const buffer = some()
    if (node < 24 && !deno && buffer) markAsUntransferable(buffer)
  },
  inFlight() {
    // Not of a pool's slice: a full pool uses it again at once.
    const buffer = some()
    const { alone, waits, shared } = live.get(buffer) ?? {}
    if (!(alone || waits) || shared) return
    live.delete(buffer)
    const bytes = new Uint8Array(buffer)
    pick([
      () => wait(new Promise((resolve) => read(zero, bytes, 0, bytes.length, null, resolve))),
      () => wait(new Promise((resolve) => write(sink, bytes, resolve))),
      () => wait(subtle.digest('SHA-1', bytes)),
      () => wait(new Response(bytes).arrayBuffer()),
      () => deno || wait(new Promise((resolve) => randomFill(bytes, resolve))),
    ])()
    if (pick([true, false])) may(() => manager.deallocate(buffer))
  },
  quietRead() {
    // A read that gets its byte when this route is chosen again. It asks for one byte: a read that starts late would
    // take another's too, and that one would wait for ever.
    if (fifo === undefined) return
    if (quiet > 0) {
      writeSync(fifo.to, 'X')
      quiet--
      return
    }
    const buffer = some()
    const { alone, shared } = live.get(buffer) ?? {}
    if (!alone || shared) return
    live.delete(buffer)
    quiet++
    wait(new Promise((resolve) => read(fifo.from, new Uint8Array(buffer), 0, 1, null, resolve)))
    if (pick([true, false])) may(() => manager.deallocate(buffer))
  },
  async send() {
    // A slow client of a server that frees what it sent receives no bytes of a neighbour.
    if (below(8) > 0) return
    const mark = 1 + (nextMark++ % 250)
    const sent = manager.allocateNPUMemory(pick([65536, 1 << 20]))
    new Uint8Array(sent).fill(mark)
    server ??= await listening()
    const client = connect(server.address().port, '127.0.0.1')
    const [socket] = await once(server, 'connection')
    const write = { when: pick([true, false]), foreign: false, freed: performance.now(), ended: Infinity }
    socket.once('finish', () => (write.ended = performance.now()))
    socket.end(Buffer.from(sent))
    if (write.when) wait(manager.deallocateWhen(sent, socket))
    else may(() => manager.deallocate(sent))
    keep(manager.allocateNPUMemory(sent.byteLength || 65536), { waits: true })
    for (let turns = below(4); turns > 0; turns--) await nextTurn()
    wait(received(client, mark, write))
  },
  share() {
    const buffer = some()
    if (!buffer || live.get(buffer).block) return
    const token = may(() => manager.share(buffer))
    if (!token) return
    const info = { ...live.get(buffer), shared: true }
    live.set(buffer, info)
    if (pick([true, false])) live.set(manager.adopt(token), info)
    else holder?.postMessage({ token })
  },
  startHolder() {
    holder ??= worker(HOLDER)
  },
  endHolder() {
    if (pick([true, false])) holder?.postMessage({ exit: true })
    else if (holder) wait(holder.terminate())
    holder = undefined
  },
  // Bun 1.4 aborts when it collects a buffer of another thread.
  async endEcho() {
    if (bun || below(10) > 0) return
    await ready(echo)
    wait(echo.terminate())
    echo = startEcho()
  },
  reopen() {
    if (below(20) > 0) return
    manager.dispose()
    // Shared and moved memory lives on; other buffers are detached or read zeros.
    live = new Map()
    pinned = []
    pool = undefined
    manager = open()
  },
  collect: () => gc(),
  turn: () => nextTurn(),
}
const names = Object.keys(routes).filter((name) => !(bun && ['post'].includes(name)))
const weights = { allocate: 6, dedicated: 4, system: 4, fromPool: 4, free: 8, turn: 2 }
const wheel = names.flatMap((name) => Array(weights[name] ?? 2).fill(name))

let steps = 0
for (const end = performance.now() + seconds * 1000; performance.now() < end; steps++) {
  const name = pick(wheel)
  counts[name] = (counts[name] ?? 0) + 1
  await routes[name]()
  if (live.size > 200) for (let i = 0; i < 100; i++) routes.free()
  if (steps % 50 === 0) check()
  if (steps % 200 === 0) await nextTurn()
}
check()
for (; quiet > 0; quiet--) writeSync(fifo.to, 'X')
await ready(echo)
await Promise.all([...workers].map((one) => one.terminate()))
await Promise.all(pending)
for (const { when, foreign, freed, ended } of sends)
  assert.ok(!foreign || (!when && ended - freed >= REUSE_AFTER), 'a client received bytes of others')
manager.dispose()
live.clear()
let left
for (let i = 0; i < 400; i++) {
  gc()
  await sleep(5)
  left = openFiles().filter((file) => !before.includes(file) && /memfd|dmabuf|dri|rknpu|dma_heap/.test(file))
  if (left.length === 0) break
}
console.log(JSON.stringify({ steps, left, refusals }))

function check() {
  for (const [buffer, { mark, pool: of, shared, foreign }] of live) {
    const ended = of !== undefined && (of.destroyed || of !== pool)
    // A buffer in flight at the forced end of its pool or manager reads zeros, unless another manager adopted it.
    const zeros = (foreign || (of !== undefined && shared)) && holds(buffer, 0)
    if (buffer.byteLength === 0 || (ended && !shared) || zeros) live.delete(buffer)
    else
      assert.ok(
        holds(buffer, mark),
        `a buffer of ${buffer.byteLength} bytes has ${new Uint8Array(buffer)[0]} for ${mark}`,
      )
  }
}
