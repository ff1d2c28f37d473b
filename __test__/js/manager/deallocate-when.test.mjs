/** `deallocateWhen`: a buffer is freed when an operation that uses its bytes has ended, and not before. */

import assert from 'node:assert/strict'
import { EventEmitter, once } from 'node:events'
import http from 'node:http'
import { test } from 'node:test'
import { PassThrough, Writable } from 'node:stream'
import zlib from 'node:zlib'

import { MemoryManager } from '../../../index.js'

const open = () => new MemoryManager({ backend: 'simulated' })
const turn = () => new Promise((resolve) => setImmediate(resolve))

/** A stream whose writes end when the test says so. */
function slowStream() {
  const ends = []
  const stream = new Writable({ write: (_chunk, _encoding, end) => ends.push(end) })
  return { stream, end: () => ends.shift()() }
}

/** The same buffer as memory of its own, as a slice, and as a block of each kind. */
const makers = {
  'a dedicated buffer': (memory) => memory.allocateNPUMemory(1 << 16, { dedicated: true }),
  'system memory': (memory) => memory.allocateSystemMemory(1 << 16),
  'a slice of a slab': (memory) => memory.allocateNPUMemory(100),
  'a slice of a pool': (memory) => pool(memory).allocateBuffer(100),
  'a block': (memory) => pool(memory).allocate(100),
  'a block with its buffer': (memory) => withBuffer(pool(memory).allocate(100)),
  'a movable block': (memory) => withBuffer(pool(memory).allocate(100, { movable: true })),
}
const pool = (memory) => memory.createMemoryPool({ name: 'p', initialSize: 1 << 16 })
const withBuffer = (block) => (assert.ok(block.buffer.byteLength > 0), block)

for (const [what, make] of Object.entries(makers)) {
  test(`${what} is freed when a promise settles, and stays counted until then`, async () => {
    for (const settle of ['resolve', 'reject']) {
      const memory = open()
      const buffer = make(memory)
      const operation = Promise.withResolvers ? Promise.withResolvers() : resolvers()
      const freed = memory.deallocateWhen(buffer, operation.promise)
      for (let turns = 0; turns < 3; turns++) await turn()
      assert.equal(memory.owns(buffer), true)
      operation[settle](new Error('the operation failed'))
      assert.equal(await freed, undefined)
      assert.equal(memory.owns(buffer), false)
      memory.dispose()
    }
  })
}

function resolvers() {
  const made = {}
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }))
  return made
}

test('a buffer is freed when its stream has finished, and one of a failed or closed stream too', async () => {
  const memory = open()
  const ends = {
    finish: ({ stream, end }) => (stream.end(), end()),
    close: ({ stream }) => stream.destroy(),
    error: ({ stream }) => stream.destroy(new Error('broken pipe')),
  }
  for (const [event, endWith] of Object.entries(ends)) {
    const slow = slowStream()
    const buffer = memory.allocateNPUMemory(4096)
    slow.stream.on('error', () => {})
    slow.stream.write(Buffer.from(buffer))
    const freed = memory.deallocateWhen(Buffer.from(buffer), slow.stream)
    await turn()
    assert.equal(buffer.byteLength, 4096, event)
    endWith(slow)
    await freed
    assert.equal(buffer.byteLength, 0, event)
    const left = ['finish', 'close'].map((name) => slow.stream.listenerCount(name))
    assert.deepEqual(left, [0, 0], `no listener is left after ${event}`)
  }
  memory.dispose()
})

test('a stream that has ended before frees at once', async () => {
  const memory = open()
  for (const end of [(stream) => stream.end(), (stream) => stream.destroy()]) {
    const stream = new PassThrough()
    stream.resume()
    end(stream)
    await once(stream, 'close')
    const buffer = memory.allocateSystemMemory(100)
    await memory.deallocateWhen(buffer, stream)
    assert.equal(buffer.byteLength, 0)
  }
  memory.dispose()
})

test('any number of buffers wait for one stream with one set of listeners', async () => {
  const memory = open()
  const emitter = new EventEmitter()
  const buffers = Array.from({ length: 50 }, () => memory.allocateNPUMemory(64))
  const freed = buffers.map((buffer) => memory.deallocateWhen(buffer, emitter))
  assert.equal(emitter.listenerCount('finish'), 1)
  emitter.emit('finish')
  await Promise.all(freed)
  assert.equal(memory.getMemoryStats().liveAllocations, 0)
  memory.dispose()
})

test("an emitter's error stays unhandled if the program does not handle it", async () => {
  const memory = open()
  const emitter = new EventEmitter()
  const buffer = memory.allocateNPUMemory(64)
  const freed = memory.deallocateWhen(buffer, emitter)
  assert.throws(() => emitter.emit('error', new Error('mine')), /mine/)
  await freed
  assert.equal(buffer.byteLength, 0)
  memory.dispose()
})

test('memory that was freed in another way resolves; memory that cannot be freed rejects', async () => {
  const memory = open()
  const never = new Promise(() => {})
  const slow = slowStream()
  const twice = memory.allocateNPUMemory(64)
  const both = [slow.stream, Promise.resolve()].map((done) => memory.deallocateWhen(twice, done))
  slow.stream.end()
  await Promise.all(both)

  const early = memory.allocateNPUMemory(64)
  const done = resolvers()
  const waits = memory.deallocateWhen(early, done.promise)
  memory.deallocate(early)
  done.resolve()
  await waits

  const pinned = pool(memory).allocate(64)
  pinned.pin()
  await assert.rejects(memory.deallocateWhen(pinned, Promise.resolve()), { code: 'ERR_BUFFER_BUSY' })
  pinned.unpin()
  pinned.free()

  if (ArrayBuffer.prototype.transfer) {
    const moved = memory.allocateNPUMemory(64)
    const gone = memory.deallocateWhen(moved, Promise.resolve())
    const now = moved.transfer()
    await assert.rejects(gone, { code: 'ERR_BUFFER_TRANSFERRED' })
    memory.deallocate(now)
  }

  const disposed = memory.deallocateWhen(memory.allocateNPUMemory(64), never)
  const alsoDisposed = memory.deallocateWhen(memory.allocateNPUMemory(64), new EventEmitter())
  memory.dispose()
  await Promise.all([disposed, alsoDisposed])
})

test('arguments are checked at once', async () => {
  const [memory, other] = [open(), open()]
  const buffer = memory.allocateNPUMemory(64)
  for (const done of [undefined, null, 1, 'finish', {}, [], () => {}, { then: 1 }, { once() {} }]) {
    await assert.rejects(memory.deallocateWhen(buffer, done), { code: 'ERR_INVALID_ARG_TYPE' }, String(done))
  }
  const now = Promise.resolve()
  await assert.rejects(memory.deallocateWhen({}, now), { code: 'ERR_INVALID_ARG_TYPE' })
  await assert.rejects(memory.deallocateWhen(new ArrayBuffer(8), now), { code: 'ERR_UNKNOWN_BUFFER' })
  await assert.rejects(other.deallocateWhen(buffer, now), { code: 'ERR_UNKNOWN_BUFFER' })
  await assert.rejects(other.deallocateWhen(pool(memory).allocate(8), now), { code: 'ERR_UNKNOWN_BUFFER' })
  assert.equal(memory.owns(buffer), true)
  memory.deallocate(buffer)
  await assert.rejects(memory.deallocateWhen(buffer, now), { code: 'ERR_BUFFER_FREED' })
  memory.dispose()
  other.dispose()
  await assert.rejects(memory.deallocateWhen(buffer, now), { code: 'ERR_MANAGER_DISPOSED' })
})

test('a slow client receives the bytes that were sent', async () => {
  const memory = open()
  const kv = memory.createMemoryPool({ name: 'kv', initialSize: 16 << 20 })
  const freed = []
  const server = http.createServer((_request, response) => {
    const sent = kv.allocateBuffer(8 << 20)
    new Uint8Array(sent).fill(7)
    response.end(Buffer.from(sent))
    freed.push(memory.deallocateWhen(sent, response))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const [response] = await once(http.get({ port: server.address().port, host: '127.0.0.1', agent: false }), 'response')
  for (let turns = 0; turns < 20; turns++) await turn()
  const next = kv.allocateBuffer(8 << 20)
  new Uint8Array(next).fill(9)
  let other = 0
  for await (const chunk of response) other += chunk.some((byte) => byte !== 7) ? 1 : 0
  await Promise.all(freed)
  assert.equal(other, 0)
  assert.deepEqual([memory.getMemoryStats().liveAllocations, next.byteLength], [1, 8 << 20])
  server.close()
  memory.dispose()
})

test('zlib compresses the bytes that it was given', async () => {
  const memory = open()
  const buffer = memory.allocateSystemMemory(1 << 20)
  const bytes = new Uint8Array(buffer)
  for (let at = 0; at < bytes.length; at++) bytes[at] = at * 2654435761
  const expected = Buffer.from(bytes)
  const gzip = new Promise((resolve, reject) => {
    zlib.gzip(bytes, (error, result) => (error ? reject(error) : resolve(result)))
  })
  await memory.deallocateWhen(buffer, gzip)
  assert.equal(buffer.byteLength, 0)
  assert.ok(zlib.gunzipSync(await gzip).equals(expected))
  memory.dispose()
})
