/**
 * Lifetime of memory: explicit frees, moves between ArrayBuffers and threads, other processes. exits.test.mjs and
 * collected.test.mjs have the other ends.
 */

import assert from 'node:assert/strict'
import { ftruncateSync, readSync, writeSync } from 'node:fs'
import { test } from 'node:test'
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads'

import { closeDmaBuf } from '../../../index.js'
import {
  assertNothingLeft, KiB, MiB, needsForeignFds, needsSimulated, needsTransfer, open, refuses, startChild, turnsUntil,
} from '../../support/helpers.mjs'

test('transfer() moves the memory: the new ArrayBuffer is the buffer', { skip: needsTransfer }, (t) => {
  const manager = open(t)
  for (const allocate of ['allocateNPUMemory', 'allocateSystemMemory']) {
    const buffer = manager[allocate](4096)
    new Uint8Array(buffer).fill(42)
    const before = manager.describe(buffer)
    const moved = buffer.transfer()
    assert.equal(buffer.byteLength, 0)
    assert.ok(new Uint8Array(moved).every((byte) => byte === 42))
    assert.deepEqual(manager.describe(moved), before)
    assert.equal(manager.owns(moved), true)
    assert.equal(manager.owns(buffer), false)
    manager.deallocate(moved)
    assert.equal(moved.byteLength, 0)
  }
  assertNothingLeft(manager)
})

test('transferToFixedLength() is the same', { skip: needsTransfer }, (t) => {
  const manager = open(t)
  const moved = manager.allocateNPUMemory(4096).transferToFixedLength()
  assert.equal(manager.owns(moved), true)
  manager.deallocate(moved)
  assertNothingLeft(manager)
})

test('transfer(another length) copies, and the finalizer frees the memory', { skip: needsTransfer }, async (t) => {
  const manager = open(t)
  const buffer = manager.allocateNPUMemory(8192)
  new Uint8Array(buffer).fill(7)
  const copy = buffer.transfer(100)
  assert.ok(new Uint8Array(copy).every((byte) => byte === 7))
  assert.equal(manager.owns(copy), false)
  refuses(() => manager.deallocate(copy), 'ERR_UNKNOWN_BUFFER')
  await turnsUntil(() => manager.getMemoryStats().liveAllocations === 0)
  assertNothingLeft(manager)
  refuses(() => manager.deallocate(buffer), 'ERR_BUFFER_FREED')
  assert.equal(copy.byteLength, 100)
})

test('transfer(0) frees the memory without a deallocate', { skip: needsTransfer }, async (t) => {
  const manager = open(t)
  manager.allocateNPUMemory(8192).transfer(0)
  assert.ok(await turnsUntil(() => manager.getMemoryStats().liveAllocations === 0))
  assertNothingLeft(manager)
})

test('a BYOB stream moves the memory, and its result is the buffer', async (t) => {
  const manager = open(t)
  const buffer = manager.allocateNPUMemory(4096)
  const before = manager.describe(buffer)
  const stream = new ReadableStream({
    type: 'bytes',
    pull(controller) {
      const { view } = controller.byobRequest
      new Uint8Array(view.buffer, view.byteOffset, view.byteLength).fill(5)
      controller.byobRequest.respond(view.byteLength)
    },
  })
  const { value } = await stream.getReader({ mode: 'byob' }).read(new Uint8Array(buffer))
  assert.equal(buffer.byteLength, 0)
  refuses(() => manager.deallocate(buffer), 'ERR_BUFFER_TRANSFERRED')
  assert.deepEqual(manager.describe(value), before)
  assert.ok(value.every((byte) => byte === 5))
  manager.deallocate(value)
  assertNothingLeft(manager)
})

test('structuredClone copies', (t) => {
  const manager = open(t)
  const buffer = manager.allocateNPUMemory(4096)
  new Uint8Array(buffer)[9] = 9
  const copy = structuredClone(buffer)
  assert.equal(manager.owns(copy), false)
  new Uint8Array(copy)[9] = 1
  assert.equal(new Uint8Array(buffer)[9], 9)
  manager.deallocate(buffer)
  assert.equal(new Uint8Array(copy)[9], 1)
})

test('structuredClone and postMessage with a transfer list neither lose nor double the memory', (t) => {
  const manager = open(t)
  const { port1, port2 } = new MessageChannel()
  t.after(() => port1.close())
  for (const send of [
    (buffer) => structuredClone(buffer, { transfer: [buffer] }),
    (buffer) => (port1.postMessage(buffer, [buffer]), receiveMessageOnPort(port2).message),
  ]) {
    const buffer = manager.allocateNPUMemory(4096)
    new Uint8Array(buffer).fill(3)
    // Node 20 copies silently, Node 22 and later refuse, Deno moves: in each case one ArrayBuffer is the memory.
    let received
    try {
      received = send(buffer)
    } catch (error) {
      assert.equal(error.name, 'DataCloneError')
    }
    const owner = buffer.byteLength > 0 ? buffer : received
    assert.equal(manager.owns(owner), true)
    assert.ok(new Uint8Array(owner).every((byte) => byte === 3))
    manager.deallocate(owner)
    assertNothingLeft(manager)
  }
})

test('another process sees the same bytes through an exported descriptor', { skip: needsForeignFds }, async (t) => {
  const manager = open(t)
  const buffer = manager.allocateNPUMemory(64 * KiB)
  new Uint32Array(buffer)[0] = 0xc0ffee
  manager.syncToDevice(buffer)
  const { fd } = manager.exportDmaBuf(buffer)
  const { status, stdout } = await startChild('importer.mjs', { fds: [fd] })
  closeDmaBuf(fd)
  assert.equal(status, 0)
  assert.equal(stdout.trim(), 'c0ffee')
  manager.syncFromDevice(buffer)
  assert.equal(new Uint32Array(buffer)[1], 0xbeef)
})

test(
  'the descriptor is the memory: reads and writes through it are seen',
  { skip: needsSimulated || needsForeignFds },
  (t) => {
    const manager = open(t)
    const buffer = manager.allocateNPUMemory(4096)
    const bytes = new Uint8Array(buffer)
    const { fd } = manager.exportDmaBuf(buffer)
    t.after(() => closeDmaBuf(fd))
    bytes[100] = 123
    const read = Buffer.alloc(1)
    readSync(fd, read, 0, 1, 100)
    assert.equal(read[0], 123)
    writeSync(fd, Buffer.from([45]), 0, 1, 101)
    assert.equal(bytes[101], 45)
  },
)

test('an exported buffer cannot be truncated', { skip: needsSimulated || needsForeignFds }, (t) => {
  const manager = open(t)
  const bytes = new Uint8Array(manager.allocateNPUMemory(4096))
  const { fd } = manager.exportDmaBuf(bytes)
  t.after(() => closeDmaBuf(fd))
  assert.throws(() => ftruncateSync(fd, 0), { code: 'EPERM' })
  bytes[4095] = 1
  assert.equal(bytes[4095], 1)
})

test('an import keeps the memory when its exporter is disposed', (t) => {
  const exporter = open(t)
  const importer = open(t)
  const buffer = exporter.allocateNPUMemory(MiB)
  new Uint8Array(buffer).fill(8)
  const { fd } = exporter.exportDmaBuf(buffer)
  const twin = importer.importDmaBuf(fd)
  closeDmaBuf(fd)
  exporter.dispose()
  assert.equal(buffer.byteLength, 0)
  assert.ok(new Uint8Array(twin).every((byte) => byte === 8))
  importer.deallocate(twin)
  assertNothingLeft(importer)
})
