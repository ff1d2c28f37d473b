/** Attacks that free a buffer while an operation, a view, a pin or another process uses it. */

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
import { promisify } from 'node:util'
import { MessageChannel } from 'node:worker_threads'
import { deflate } from 'node:zlib'

import { closeDmaBuf, DmaBufInbox, sendDmaBuf, unpinDropped } from '../../../../index.js'
import { open } from '../open.mjs'
import { can, deno, fill, free, fresh, holds, manager, may, node, objects, quietly, SIZES } from './tools.mjs'

export const operations = {
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
}
