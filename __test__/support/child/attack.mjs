/**
 * Attacks external memory from pure JavaScript, one attack a process. Arguments: the attack, and "objects" (dedicated
 * kernel objects) or "slices". Neighbours with known bytes show stray writes. Afterwards new memory of the same sizes
 * shows late writes into freed memory. Needs --expose-gc.
 */

import assert from 'node:assert/strict'
import { Blob, Buffer } from 'node:buffer'
import { spawnSync } from 'node:child_process'
import { createHash, randomFill, subtle } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, constants, mkdtempSync, openSync, read, rmSync, write, writeSync } from 'node:fs'
import { createServer, get } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { inspect, promisify, types } from 'node:util'
import { MessageChannel, markAsUntransferable, Worker } from 'node:worker_threads'
import { deflate } from 'node:zlib'

import { closeDmaBuf, DmaBufInbox, MemoryManager, sendDmaBuf, unpinDropped } from '../../../index.js'
import { open, openFiles } from './open.mjs'

const [name, how] = process.argv.slice(2)
const objects = how === 'objects'
const { deno, bun } = process.versions
const node = deno || bun ? 0 : Number(process.versions.node.split('.')[0])
const can = { transfer: typeof ArrayBuffer.prototype.transfer === 'function' }

const manager = open(objects ? { slabs: { threshold: 0 } } : {})
const SIZES = objects ? [4096, 65536, 1 << 20] : [100, 4096, 65536]
/** Counts of expected refusals, by code. */
const refusals = {}

const fresh = (size = SIZES[1], from = manager) => from.allocateNPUMemory(size)
const fill = (buffer, value) => new Uint8Array(buffer).fill(value)
const holds = (buffer, value) => new Uint8Array(buffer).every((byte) => byte === value)

/** Runs a call that may fail with one of these codes, and with no other error. */
function may(codes, call) {
  try {
    return call()
  } catch (error) {
    if (!codes.includes(error.code)) throw error
    refusals[error.code] = (refusals[error.code] ?? 0) + 1
  }
}
const free = (buffer, ...also) =>
  may(['ERR_BUFFER_BUSY', 'ERR_BUFFER_TRANSFERRED', 'ERR_BUFFER_FREED', ...also], () => manager.deallocate(buffer))
/** Ignores the runtime's own refusals. */
const quietly = (call) => {
  try {
    return call()
  } catch {
    return undefined
  }
}

function worker(source, workerData) {
  const made = new Worker(source, {
    eval: true,
    workerData: { index: new URL('../../../index.js', import.meta.url).href, ...workerData },
  })
  made.failed = new Promise((_, reject) => made.on('error', reject))
  made.failed.catch(() => {})
  made.next = () => Promise.race([new Promise((resolve) => made.once('message', resolve)), made.failed])
  made.ended = new Promise((resolve) => made.once('exit', resolve))
  return made
}

const attacks = {
  transfer() {
    if (!can.transfer) return
    for (const size of SIZES) {
      const buffer = fresh(size)
      fill(buffer, 1)
      const moved = buffer.transfer()
      assert.throws(() => manager.deallocate(buffer), { code: 'ERR_BUFFER_TRANSFERRED' })
      assert.ok(holds(moved, 1) && manager.owns(moved))
      const again = moved.transferToFixedLength()
      manager.deallocate(again)
      for (const gone of [buffer, again]) assert.throws(() => manager.deallocate(gone), { code: 'ERR_BUFFER_FREED' })
      // The manager has never seen this ArrayBuffer.
      assert.throws(() => manager.deallocate(moved), { code: 'ERR_UNKNOWN_BUFFER' })
    }
  },
  resizingTransfer() {
    if (!can.transfer) return
    const copies = []
    for (const size of SIZES) {
      for (const length of [0, 1, size - 1, size + 1, size * 2]) {
        const buffer = fresh(size)
        fill(buffer, 2)
        copies.push(quietly(() => buffer.transfer(length)))
        free(buffer)
        if (copies.at(-1)) free(copies.at(-1), 'ERR_UNKNOWN_BUFFER')
      }
    }
  },
  structuredClone() {
    for (const size of SIZES) {
      const buffer = fresh(size)
      fill(buffer, 3)
      const clone = quietly(() => structuredClone(buffer, { transfer: [buffer] }))
      const copy = buffer.byteLength > 0 ? structuredClone(buffer) : undefined
      free(buffer)
      if (clone) assert.ok(clone.byteLength === 0 || holds(clone, 3))
      if (clone) free(clone, 'ERR_UNKNOWN_BUFFER')
      if (copy) assert.throws(() => manager.deallocate(copy), { code: 'ERR_UNKNOWN_BUFFER' })
      const { port1, port2 } = new MessageChannel()
      const second = fresh(size)
      quietly(() => port1.postMessage(second, [second]))
      free(second)
      port1.close()
      port2.close()
    }
  },
  async postMessage() {
    const echo = worker(`
      const { parentPort } = require('node:worker_threads')
      parentPort.on('message', (buffer) => {
        if (buffer === 'end') return process.exit(0)
        const bytes = new Uint8Array(buffer)
        bytes.fill(bytes[0] + 1)
        parentPort.postMessage(buffer, [buffer])
      })`)
    for (const size of SIZES) {
      const buffer = fresh(size)
      fill(buffer, 4)
      const moved = can.transfer ? buffer.transfer() : buffer
      if (quietly(() => (echo.postMessage(moved, [moved]), true))) {
        const back = await echo.next()
        assert.ok(holds(back, 5))
        free(back, 'ERR_UNKNOWN_BUFFER')
      }
      free(moved, 'ERR_UNKNOWN_BUFFER')
      free(buffer)
    }
    echo.postMessage('end')
    await echo.ended
  },
  async byob() {
    for (const size of SIZES) {
      const stream = new ReadableStream({
        type: 'bytes',
        pull(controller) {
          const { view } = controller.byobRequest
          new Uint8Array(view.buffer, view.byteOffset, view.byteLength).fill(6)
          controller.byobRequest.respond(view.byteLength)
        },
      })
      const reader = stream.getReader({ mode: 'byob' })
      const buffer = fresh(size)
      const { value } = await reader.read(new Uint8Array(buffer))
      assert.equal(value[0], 6)
      free(buffer)
      free(value.buffer, 'ERR_UNKNOWN_BUFFER')
      // Freed while the stream has it.
      const second = fresh(size)
      const pending = reader.read(new Uint8Array(second)).catch(() => {})
      free(second)
      await pending
      await reader.cancel()
    }
  },
  marked() {
    for (const size of SIZES) {
      const buffer = fresh(size)
      fill(buffer, 7)
      markAsUntransferable(buffer)
      free(buffer)
      assert.ok(buffer.byteLength === 0 || holds(buffer, 7))
      if (can.transfer) quietly(() => buffer.transfer())
    }
    if (node >= 24) leave()
  },
  async inFlight() {
    const sink = openSync('/dev/null', 'w')
    const zero = openSync('/dev/zero', 'r')
    const operations = [
      (bytes) => promisify(write)(sink, bytes),
      (bytes) => promisify(read)(zero, bytes, 0, bytes.length, null),
      (bytes) => subtle.digest('SHA-256', bytes),
      (bytes) => new Response(bytes).arrayBuffer(),
      (bytes) => new Request('http://localhost', { method: 'POST', body: bytes }).bytes?.(),
      (bytes) => new Blob([bytes]).arrayBuffer(),
      ...(deno ? [] : [(bytes) => promisify(randomFill)(bytes)]),
      ...(node === 20 ? [] : [(bytes) => promisify(deflate)(bytes)]),
    ]
    const pending = []
    for (let round = 0; round < 4; round++) {
      for (const operation of operations) {
        for (const size of SIZES) {
          const bytes = new Uint8Array(fresh(size))
          pending.push(Promise.resolve(operation(bytes)).catch(() => {}))
          free(bytes)
        }
      }
    }
    await Promise.all(pending)
  },
  async slowClient() {
    // A client that reads slowly receives the bytes that were sent, or zeros, and none of the next owners.
    const server = createServer((request, response) => {
      const sent = fresh(1 << 20)
      fill(sent, 7)
      response.end(Buffer.from(sent))
      free(sent)
      for (let count = 0; count < 4; count++) fill(fresh(1 << 20), 9)
    })
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    for (let round = 0; round < 4; round++) {
      const request = get({ port: server.address().port, host: '127.0.0.1', agent: false })
      const [response] = await once(request, 'response')
      for (let turns = 0; turns < 10; turns++) await nextTurn()
      for await (const chunk of response) assert.ok(!chunk.includes(9))
    }
    await new Promise((resolve) => server.close(resolve))
  },
  async fetchBodies() {
    // Frees the body of a request in flight, and the memory that receives a response.
    if (!objects) return
    const server = createServer((request, response) => {
      request.on('data', () => {})
      request.on('end', () => response.end(Buffer.alloc(200_000, 3)))
      request.on('error', () => {})
    })
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    const url = `http://127.0.0.1:${server.address().port}/`
    const pending = []
    for (let round = 0; round < 3; round++) {
      for (const size of SIZES) {
        const body = new Uint8Array(fresh(size))
        const streamed = new Uint8Array(fresh(size))
        const stream = new ReadableStream({
          start(controller) {
            controller.enqueue(streamed)
            controller.close()
          },
        })
        pending.push(fetch(url, { method: 'POST', body }).then((answer) => answer.arrayBuffer()).catch(() => {}))
        pending.push(
          fetch(url, { method: 'POST', body: stream, duplex: 'half' })
            .then((answer) => answer.arrayBuffer())
            .catch(() => {}),
        )
        const controller = new AbortController()
        const aborted = new Uint8Array(fresh(size))
        pending.push(fetch(url, { method: 'POST', body: aborted, signal: controller.signal }).catch(() => {}))
        await nextTurn()
        for (const bytes of [body, streamed, aborted]) free(bytes, 'ERR_UNKNOWN_BUFFER')
        controller.abort()
      }
    }
    await Promise.all(pending)
    server.closeAllConnections?.()
    await new Promise((resolve) => server.close(resolve))
  },
  viewsAfterFree() {
    for (const size of SIZES) {
      const buffer = fresh(size)
      const views = [
        new Uint8Array(buffer), new DataView(buffer), Buffer.from(buffer), new BigInt64Array(buffer, 0, 1),
        new Uint8Array(buffer, 8),
      ]
      const iterator = new Uint8Array(buffer).values()
      iterator.next()
      manager.deallocate(buffer)
      for (const view of views) assert.equal(quietly(() => view.byteLength) ?? 0, 0)
      const [bytes, data, node, wide] = views
      bytes[0] = 1
      wide[0] = 1n
      assert.deepEqual([bytes[0], wide[0], node[0]], [undefined, undefined, undefined])
      assert.throws(() => data.getInt8(0), TypeError)
      assert.throws(() => data.setInt8(0, 1), TypeError)
      quietly(() => bytes.fill(9))
      quietly(() => bytes.set([1, 2, 3]))
      quietly(() => node.write('late'))
      quietly(() => [...iterator])
      quietly(() => bytes.subarray(0, 5).fill(9))
      quietly(() => createHash('sha1').update(bytes).digest())
      assert.throws(() => new Uint8Array(buffer), TypeError)
    }
  },
  detachedInside() {
    // Callbacks that free the buffer of the running built-in.
    for (const size of SIZES) {
      const tricks = [
        (bytes, once) => bytes.sort((a, b) => (once(), b - a)),
        (bytes, once) => bytes.map((byte) => (once(), byte)),
        (bytes, once) => bytes.fill({ valueOf: () => (once(), 9) }),
        (bytes, once) => bytes.set({ length: 8, get 3() { return once(), 1 } }),
        (bytes, once) => bytes.copyWithin({ valueOf: () => (once(), 0) }, 1),
        (bytes, once) => bytes.indexOf(1, { valueOf: () => (once(), 0) }),
        (bytes, once) => Uint8Array.from(bytes, (byte) => (once(), byte)),
        (bytes, once) => bytes.slice({ valueOf: () => (once(), 0) }),
        (bytes, once) => new DataView(bytes.buffer, { valueOf: () => (once(), 0) }),
        (bytes, once) => new DataView(bytes.buffer).setInt32(0, { valueOf: () => (once(), 9) }),
        (bytes, once) => bytes.buffer.slice({ valueOf: () => (once(), 0) }),
        (bytes, once) => Atomics.store(new Int32Array(bytes.buffer, 0, 1), 0, { valueOf: () => (once(), 9) }),
      ]
      for (const trick of tricks) {
        const bytes = new Uint8Array(fresh(size))
        let freed = false
        quietly(() => trick(bytes, () => freed || ((freed = true), free(bytes))))
        if (!freed) free(bytes)
      }
    }
  },
  exportAndMove() {
    const pool = manager.createMemoryPool({ name: 'exported', initialSize: 1 << 20, maxSize: 1 << 20 })
    const blocks = Array.from({ length: 16 }, () => pool.allocate(65536, { movable: true }))
    const importer = open()
    const twins = new Map()
    for (const [i, block] of blocks.entries()) {
      fill(block.buffer, i + 1)
      assert.throws(() => manager.exportDmaBuf(block.buffer), { code: 'ERR_UNSUPPORTED' })
      if (i % 4 !== 1) continue
      block.pin()
      // The bytes may be in another ArrayBuffer by then.
      const buffer = can.transfer && i === 5 ? block.buffer.transfer() : block.buffer
      const { fd, offset, size } = manager.exportDmaBuf(buffer)
      twins.set(i, importer.importDmaBuf(fd, { offset, size }))
      closeDmaBuf(fd)
      block.unpin()
      // A freed block's place may have another owner, and its importer sees that one.
      if (i === 13) {
        block.free()
        twins.delete(i)
      }
    }
    blocks.filter((_, i) => i % 4 === 0).forEach((block) => block.free())
    pool.defragment()
    const later = Array.from({ length: 4 }, () => may(['ERR_POOL_EXHAUSTED'], () => pool.allocate(65536)))
    later.filter(Boolean).forEach((block) => fill(block.buffer, 0xee))
    pool.defragment()
    for (const [i, twin] of twins) {
      assert.ok(holds(twin, i + 1), `the importer of block ${i} sees other bytes`)
      fill(twin, 100 + i)
    }
    for (const [i, block] of blocks.entries()) {
      if (i % 4 === 0 || i === 13 || (can.transfer && i === 5)) continue
      assert.ok(holds(block.buffer, i % 4 === 1 ? 100 + i : i + 1), `block ${i} has other bytes`)
    }
    assert.ok(later.every((block) => !block || holds(block.buffer, 0xee)))
    pool.reset()
    twins.forEach((twin) => quietly(() => fill(twin, 9)))
    importer.dispose()
    manager.destroyMemoryPool(pool, { force: true })
  },
  async pinAndDrop() {
    // A pinned block that JavaScript dropped keeps its place, whatever became of its buffer.
    const pool = manager.createMemoryPool({ name: 'pinned', initialSize: 1 << 20, maxSize: 1 << 20 })
    const { port1, port2 } = new MessageChannel()
    const endings = [
      () => {},
      (block) => fill(block.buffer, 9),
      (block) => can.transfer && block.buffer.transfer(),
      (block) => can.transfer && block.buffer.transfer(8),
      (block) => structuredClone(block.buffer, { transfer: [block.buffer] }),
      (block) => port1.postMessage(block.buffer, [block.buffer]),
      (block) => may(['ERR_BUFFER_BUSY'], () => manager.deallocate(block.buffer)),
      (block) => may(['ERR_BUFFER_BUSY'], () => block.free()),
    ]
    const pinned = []
    const pinOne = (ending, options) => {
      const block = pool.allocate(4096, options)
      block.pin()
      const { id, address } = manager.describe(block)
      pinned.push({ id, address })
      quietly(() => ending(block))
    }
    for (const ending of endings) {
      for (const options of [undefined, { tag: 't' }, { zeroed: true }, { movable: true }]) pinOne(ending, options)
    }
    for (let round = 0; round < 5; round++) {
      gc()
      await nextTurn()
    }
    pool.defragment()
    const others = []
    const other = () => may(['ERR_POOL_EXHAUSTED'], () => pool.allocate(4096))
    for (let block = other(); block !== undefined; block = other()) others.push(block)
    assert.ok(others.length > 0 && others.length <= 256 - pinned.length)
    const places = new Set(pinned.map(({ address }) => address))
    assert.ok(!others.some((block) => places.has(block.address)), 'a block has the place of a pinned one')
    // The collector may not have seen a block yet.
    for (const { id } of pinned) may(['ERR_BUFFER_BUSY'], () => unpinDropped(id))
    port1.close()
    port2.close()
    manager.destroyMemoryPool(pool, { force: true })
  },
  async quietReads() {
    // Reads that get their bytes long after the memory was freed, or its pinned block was dropped.
    const folder = mkdtempSync(join(tmpdir(), 'rkllm-attack-'))
    const path = join(folder, 'fifo')
    if (spawnSync('mkfifo', [path]).status !== 0) return
    const fifo = openSync(path, constants.O_RDWR)
    const pool = manager.createMemoryPool({ name: 'quiet', initialSize: 1 << 20, maxSize: 1 << 20 })
    const readLater = (buffer) =>
      new Promise((resolve) => read(fifo, new Uint8Array(buffer), 0, buffer.byteLength, null, resolve))
    const freed = (allocate) => () => {
      const buffer = allocate()
      const done = readLater(buffer)
      free(buffer)
      return done
    }
    const starts = [
      freed(() => manager.allocateNPUMemory(65536, { dedicated: true })),
      freed(() => manager.allocateSystemMemory(65536)),
      () => {
        const block = pool.allocate(65536)
        block.pin()
        return readLater(block.buffer)
      },
    ]
    for (const start of starts) {
      const done = start()
      await sleep(20)
      gc()
      await nextTurn()
      const others = Array.from({ length: 64 }, (_, i) =>
        i % 2 ? manager.allocateNPUMemory(65536, { dedicated: true }) : manager.allocateSystemMemory(65536),
      )
      const blocks = Array.from({ length: 14 }, () => pool.allocate(65536))
      const all = [...others, ...blocks.map((block) => block.buffer)]
      all.forEach((buffer) => fill(buffer, 1))
      writeSync(fifo, Buffer.alloc(4096, 0x58))
      await done
      assert.ok(all.every((buffer) => holds(buffer, 1)), 'a late read')
      others.forEach((buffer) => manager.deallocate(buffer))
      pool.defragment()
      blocks.forEach((block) => block.free())
    }
    closeSync(fifo)
    rmSync(folder, { recursive: true })
    manager.destroyMemoryPool(pool, { force: true })
  },
  async sendAndFree() {
    // The receiver of a dma-buf keeps its memory. Memory that is freed while the message waits gets no other owner.
    const folder = mkdtempSync(join(tmpdir(), 'rkllm-attack-'))
    const inbox = new DmaBufInbox(join(folder, 'inbox'))
    const importer = open()
    for (const size of SIZES) {
      const buffer = manager.allocateNPUMemory(size, { dedicated: true })
      fill(buffer, 3)
      const piece = manager.exportDmaBuf(buffer)
      await sendDmaBuf(inbox.path, piece, 'x')
      closeDmaBuf(piece.fd)
      manager.deallocate(buffer)
      const next = manager.allocateNPUMemory(size, { dedicated: true })
      fill(next, 4)
      const { fd, offset, size: bytes } = await inbox.receive()
      const twin = importer.importDmaBuf(fd, { offset, size: bytes })
      closeDmaBuf(fd)
      assert.ok(twin.byteLength === size && holds(twin, 3))
      fill(twin, 5)
      assert.ok(holds(next, 4))
      manager.deallocate(next)
    }
    inbox.close()
    importer.dispose()
    rmSync(folder, { recursive: true })
  },
  forcedPool() {
    for (const end of ['destroy', 'reset']) {
      const pool = manager.createMemoryPool({ name: end, initialSize: 1 << 20 })
      const blocks = Array.from({ length: 20 }, () => pool.allocate(4096))
      const buffers = blocks.map((block) => block.buffer)
      const moved = can.transfer ? buffers[3].transfer() : undefined
      if (node < 24) markAsUntransferable(buffers[4])
      if (end === 'destroy') manager.destroyMemoryPool(pool, { force: true })
      else pool.reset()
      buffers.forEach((buffer) => quietly(() => fill(buffer, 8)))
      if (moved) quietly(() => fill(moved, 8))
      for (const block of blocks) assert.equal(block.freed, true)
      for (const block of blocks) may(['ERR_BUFFER_FREED', 'ERR_BUFFER_TRANSFERRED'], () => block.free())
      if (end === 'reset') {
        const next = Array.from({ length: 20 }, () => pool.allocate(4096))
        next.forEach((block) => fill(block.buffer, 1))
        buffers.forEach((buffer) => quietly(() => fill(buffer, 8)))
        if (moved) quietly(() => fill(moved, 8))
        assert.ok(next.every((block) => holds(block.buffer, 1)))
        manager.destroyMemoryPool(pool, { force: true })
      }
    }
  },
  disposeWithViews() {
    const other = open(objects ? { slabs: { threshold: 0 } } : {})
    const buffers = SIZES.flatMap((size) => [fresh(size, other), other.allocateSystemMemory(size)])
    const moved = can.transfer ? buffers[0].transfer() : undefined
    if (node < 24) markAsUntransferable(buffers[1])
    const views = buffers.map((buffer) => quietly(() => new Uint8Array(buffer)))
    other.dispose()
    const late = () => views.forEach((view) => quietly(() => view?.fill(9)))
    late()
    if (moved) fill(moved, 9)
    other.dispose()
    for (const buffer of buffers) assert.throws(() => other.deallocate(buffer), { code: 'ERR_MANAGER_DISPOSED' })
    const mine = SIZES.map((size) => fresh(size))
    assert.ok(mine.every((buffer) => holds(buffer, 0)))
    late()
    if (moved) fill(moved, 9)
    assert.ok(mine.every((buffer) => holds(buffer, 0)))
    mine.forEach(free)
  },
  async stolen() {
    // Allocated by a thread and moved here; then the thread ends, and its runtime runs the finalizers.
    const stolen = []
    for (let round = 0; round < 4; round++) {
      const thief = worker(
        `const { parentPort, workerData } = require('node:worker_threads')
         import(workerData.index).then(async ({ MemoryManager }) => {
           const manager = new MemoryManager({ backend: workerData.backend, device: workerData.device })
           for (const size of workerData.sizes) {
             let buffer = manager.allocateNPUMemory(size, { dedicated: workerData.dedicated })
             new Uint8Array(buffer).fill(5)
             buffer = buffer.transfer?.() ?? buffer
             try { parentPort.postMessage(buffer, [buffer]) } catch { parentPort.postMessage(null) }
           }
           setTimeout(() => process.exit(0), 20)
         })`,
        {
          sizes: SIZES,
          dedicated: objects,
          backend: process.env.RKLLM_TEST_BACKEND ?? 'simulated',
          device: process.env.RKLLM_TEST_DEVICE || undefined,
        },
      )
      const got = []
      thief.on('message', (buffer) => got.push(buffer))
      await Promise.race([thief.ended, thief.failed])
      stolen.push(...got.filter(Boolean))
    }
    const mine = Array.from({ length: 30 }, (_, i) => fresh(SIZES[i % SIZES.length]))
    mine.forEach((buffer) => fill(buffer, 1))
    for (const buffer of stolen) fill(buffer, 9)
    assert.ok(mine.every((buffer) => holds(buffer, 1)))
    for (const buffer of stolen) assert.throws(() => manager.deallocate(buffer), { code: 'ERR_UNKNOWN_BUFFER' })
    mine.forEach(free)
    // Bun 1.4 aborts when it collects such a buffer here.
    if (bun) leave()
  },
  async twentyWorkers() {
    const source = `
      const { parentPort, workerData } = require('node:worker_threads')
      import(workerData.index).then(({ MemoryManager }) => {
        const manager = new MemoryManager({ backend: workerData.backend, device: workerData.device })
        globalThis.kept = []
        for (let i = 0; i < 50; i++) {
          const buffer = i % 2 ? manager.allocateNPUMemory(1000 * i + 1) : manager.allocateSystemMemory(1000 * i + 1)
          new Uint8Array(buffer).fill(i)
          if (i % 3) kept.push(buffer)
          else manager.deallocate(buffer)
        }
        kept.push(manager.adopt(workerData.token))
        new Uint8Array(kept.at(-1))[workerData.index_] = workerData.index_
        parentPort.postMessage('ready')
        if (workerData.index_ % 3 === 0) process.exit(0)
        if (workerData.index_ % 3 === 1) setInterval(() => {}, 1000)
      })`
    const shared = fresh()
    const token = manager.share(shared)
    const environment = {
      backend: process.env.RKLLM_TEST_BACKEND ?? 'simulated',
      device: process.env.RKLLM_TEST_DEVICE || undefined,
    }
    const workers = Array.from({ length: 20 }, (_, index_) => worker(source, { token, index_, ...environment }))
    await Promise.all(workers.map((one) => one.next()))
    await Promise.all(workers.map((one) => one.terminate()))
    assert.deepEqual([...new Uint8Array(shared, 0, 20)], Array.from({ length: 20 }, (_, i) => i))
    manager.deallocate(shared)
  },
  async terminated() {
    // Terminates a busy thread. Deno takes seconds to end one that never yields.
    const source = `
      const { workerData, parentPort } = require('node:worker_threads')
      import(workerData.index).then(async ({ MemoryManager }) => {
        const manager = new MemoryManager({ backend: workerData.backend, device: workerData.device })
        const pool = manager.createMemoryPool({ name: 'p', initialSize: 1 << 20 })
        parentPort.postMessage('runs')
        for (let i = 0; ; i++) {
          const buffer = manager.allocateNPUMemory(4096 + (i % 7) * 65536)
          const block = pool.allocate(4096, { movable: i % 2 === 0 })
          new Uint8Array(block.buffer).fill(1)
          if (i % 5) manager.deallocate(buffer)
          block.free()
          if (i % 100 === 0) pool.defragment()
          if (i % 100 === 0 && process.versions.deno) await new Promise(setImmediate)
        }
      })`
    const environment = {
      backend: process.env.RKLLM_TEST_BACKEND ?? 'simulated',
      device: process.env.RKLLM_TEST_DEVICE || undefined,
    }
    for (let round = 0; round < 6; round++) {
      const busy = worker(source, environment)
      await busy.next()
      await sleep(round * 7)
      await busy.terminate()
    }
  },
  exitWithLive() {
    globalThis.kept = [
      fresh(), new Uint8Array(fresh()),
      manager.createMemoryPool({ name: 'p', initialSize: 1 << 20 }).allocate(100).buffer,
    ]
    leave()
  },
  reentrant() {
    // Getters, listeners and conversions that re-enter the manager during a call.
    const buffers = SIZES.map((size) => fresh(size))
    const back = () => {
      fresh(SIZES[0])
      const gone = buffers.shift()
      if (gone) free(gone)
      manager.getMemoryUsage()
    }
    manager.on('warning', back)
    manager.on('relocated', back)
    manager.setMemoryLimits({ npu: { max: 1 << 30, warnAt: [0.0001] } })
    const options = { get tag() { return back(), 'reentrant' }, get alignment() { return back(), 4096 } }
    for (let i = 0; i < 5; i++) fresh(SIZES[0]) && manager.allocateNPUMemory(SIZES[1], options)
    const pool = manager.createMemoryPool({ get name() { return back(), `p${Math.random()}` }, initialSize: 1 << 20 })
    const gone = fresh()
    pool.allocate(100, { get zeroed() { return free(gone), true } })
    assert.throws(() => manager.allocateNPUMemory(4096, { get tag() { throw new Error('mine') } }), /mine/)
    const closes = open()
    assert.throws(
      () =>
        closes.allocateNPUMemory(4096, {
          get tag() {
            return (closes.dispose(), 'late')
          },
        }),
      { code: 'ERR_MANAGER_DISPOSED' },
    )
    inspect(manager)
    manager.setMemoryLimits({ npu: { max: null } })
    manager.removeAllListeners()
  },
  async listeners() {
    // Listeners for moves, warnings and pressure that compact, free and dispose during the manager's pass.
    const own = open(objects ? { slabs: { threshold: 0 } } : {})
    const pool = own.createMemoryPool({ name: 'p', initialSize: 1 << 20, maxSize: 1 << 21 })
    let blocks = Array.from({ length: 60 }, () => pool.allocate(16384, { movable: true }))
    let heard = 0
    own.on('relocated', (moves) => {
      heard += moves.length
      for (const block of blocks.splice(0, 8)) block.free()
      pool.defragment()
      own.optimizeMemory()
      blocks.push(...Array.from({ length: 4 }, () => pool.allocate(16384, { movable: true })))
    })
    own.on('warning', () =>
      may(['ERR_POOL_EXHAUSTED', 'ERR_MANAGER_DISPOSED', 'ERR_POOL_DESTROYED'], () =>
        blocks.push(pool.allocate(1000, { movable: true })),
      ),
    )
    blocks.forEach((block) => fill(block.buffer, 4))
    blocks = blocks.filter((block, at) => at % 2 || (block.free(), false))
    // The conversion of a cap re-enters, and frees a block that is about to move.
    pool.defragment({ get maxMoves() { return blocks.pop().free(), pool.defragment(), 20 } })
    for (let i = 0; i < 20; i++) await nextTurn()
    assert.ok(heard > 0)
    own.once('relocated', () => {
      own.destroyMemoryPool(pool, { force: true })
      own.dispose()
    })
    own.removeAllListeners('warning')
    blocks = blocks.filter((block, at) => at % 2 || (block.free(), false))
    pool.defragment()
    for (let i = 0; i < 20; i++) await nextTurn()
    own.dispose()
  },
  proxies() {
    const buffer = fresh()
    const traps = new Proxy({}, { get: (_, trap) => () => { throw new Error(`the trap ${String(trap)} ran`) } })
    for (const wrong of [
      new Proxy(buffer, {}), new Proxy(buffer, traps), new Proxy(new Uint8Array(buffer), traps), Object.create(buffer),
      Object.create(new Uint8Array(buffer)),
    ]) {
      assert.equal(manager.owns(wrong), false)
      for (const verb of ['deallocate', 'describe', 'syncToDevice', 'exportDmaBuf', 'share']) {
        assert.throws(() => manager[verb](wrong), { code: 'ERR_INVALID_ARG_TYPE' }, verb)
      }
    }
    const proxy = new Proxy(manager, {})
    for (const verb of ['allocateNPUMemory', 'dispose', 'getMemoryStats', 'share'])
      assert.throws(() => proxy[verb](4096), TypeError)
    assert.throws(() => MemoryManager.prototype.allocateNPUMemory.call({}, 4096), TypeError)
    free(buffer)
  },
  subclasses() {
    class Mine extends MemoryManager {
      allocateNPUMemory(size) {
        return super.allocateNPUMemory(size * 2)
      }
      dispose() {
        this.times = (this.times ?? 0) + 1
        super.dispose()
      }
    }
    const mine = new Mine({
      backend: process.env.RKLLM_TEST_BACKEND ?? 'simulated',
      device: process.env.RKLLM_TEST_DEVICE || undefined,
    })
    const buffer = mine.allocateNPUMemory(4096)
    assert.equal(buffer.byteLength, 8192)
    Object.setPrototypeOf(buffer, class extends ArrayBuffer {}.prototype)
    mine.deallocate(buffer)
    class Bytes extends Uint8Array {
      static get [Symbol.species]() {
        throw new Error('species')
      }
      get buffer() {
        throw new Error('buffer')
      }
      get byteLength() {
        throw new Error('byteLength')
      }
    }
    const bytes = new Bytes(mine.allocateNPUMemory(100))
    mine.deallocate(bytes)
    mine.dispose()
    assert.equal(mine.times, 1)
  },
  frozen() {
    for (const size of SIZES) {
      const buffer = fresh(size)
      Object.freeze(buffer)
      Object.defineProperty(Object.getPrototypeOf(new Uint8Array(buffer)), 'x', { value: 1, configurable: true })
      manager.syncToDevice(buffer)
      manager.deallocate(buffer)
      assert.equal(buffer.byteLength, 0)
    }
    Object.freeze(manager)
    const buffer = fresh()
    manager.deallocate(buffer)
  },
  poisonedPrototypes() {
    const saved = [ArrayBuffer.prototype.transfer, Object.getOwnPropertyDescriptor(ArrayBuffer.prototype, 'byteLength')]
    ArrayBuffer.prototype.transfer = function () {
      return this
    }
    Object.defineProperty(ArrayBuffer.prototype, 'byteLength', { get: () => 12345, configurable: true })
    const buffer = fresh()
    manager.deallocate(buffer)
    assert.throws(() => manager.deallocate(buffer), { code: 'ERR_BUFFER_FREED' })
    if (saved[0]) ArrayBuffer.prototype.transfer = saved[0]
    else delete ArrayBuffer.prototype.transfer
    Object.defineProperty(ArrayBuffer.prototype, 'byteLength', saved[1])
    assert.equal(buffer.byteLength, 0)
  },
  shared() {
    const buffer = fresh()
    const token = manager.share(buffer)
    const views = Array.from({ length: 10 }, () => manager.adopt(token))
    const moved = can.transfer ? views.map((view, i) => (i % 2 ? view.transfer() : view)) : views
    if (node < 24) markAsUntransferable(moved[2])
    fill(buffer, 1)
    for (const [i, view] of moved.entries()) {
      if (view.byteLength > 0) assert.ok(holds(view, 1))
      if (i % 3) free(view)
    }
    free(buffer)
    for (const view of moved) if (view.byteLength > 0) assert.ok(holds(view, 1))
    moved.forEach((view) => free(view))
  },
  async sharedBuffers() {
    for (const wrong of [
      new SharedArrayBuffer(8), new WebAssembly.Memory({ initial: 1 }).buffer, new ArrayBuffer(8),
      new ArrayBuffer(8, { maxByteLength: 16 }),
    ]) {
      assert.throws(() => manager.deallocate(wrong), { code: /^ERR_(INVALID_ARG_TYPE|UNKNOWN_BUFFER)$/ })
      assert.ok(types.isAnyArrayBuffer(wrong) && wrong.byteLength > 0)
    }
  },
}

/** Prints the result, and exits without the runtime's own cleanup. */
function leave() {
  check()
  report()
  process.reallyExit ? process.reallyExit(0) : process.exit(0)
}

const neighbours = SIZES.flatMap((size) => Array.from({ length: 4 }, () => fresh(size)))
neighbours.forEach((buffer) => fill(buffer, 0x77))
function check() {
  assert.ok(neighbours.every((buffer) => holds(buffer, 0x77)), 'a neighbour lost its bytes')
}
function report() {
  console.log(JSON.stringify({ refusals, left: [] }))
}

const before = openFiles()
await attacks[name]()
check()
for (let i = 0; i < 10; i++) {
  gc()
  await nextTurn()
}
// A late write into freed memory lands in these buffers.
const watched = SIZES.flatMap((size) => Array.from({ length: 16 }, () => fresh(size)))
watched.forEach((buffer) => fill(buffer, 0x11))
await sleep(50)
gc()
await nextTurn()
assert.ok(watched.every((buffer) => holds(buffer, 0x11)), 'a late write')
check()
;[...watched, ...neighbours].forEach((buffer) => manager.deallocate(buffer))
manager.dispose()
let left
for (let i = 0; i < 1600; i++) {
  left = openFiles().filter((file) => !before.includes(file) && /memfd|dmabuf|dri|rknpu|dma_heap/.test(file))
  if (left.length === 0) break
  gc()
  await sleep(5)
}
console.log(JSON.stringify({ refusals, left }))
if (node >= 24 && name === 'marked') process.reallyExit(0)

