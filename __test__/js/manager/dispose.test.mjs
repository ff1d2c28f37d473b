/** Disposal of a manager. */

import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import { test } from 'node:test'

import { MemoryManager } from '../../../index.js'
import {
  backend, device, fdsAtMost, needsTransfer, open, openFds, runChild, turnsUntil,
} from '../../support/helpers.mjs'

const make = () => new MemoryManager({ backend, device })

test('dispose frees everything and detaches every buffer', () => {
  const fds = openFds()
  const manager = make()
  const buffers = Array.from({ length: 300 }, (_, i) =>
    i % 2 ? manager.allocateNPUMemory(4096) : manager.allocateSystemMemory(4096),
  )
  assert.equal(manager.disposed, false)
  manager.dispose()
  assert.equal(manager.disposed, true)
  assert.ok(buffers.every((buffer) => buffer.byteLength === 0))
  assert.ok(fdsAtMost(fds) <= fds)
})

test('dispose may be called again', () => {
  const manager = make()
  manager.dispose()
  assert.equal(manager.dispose(), undefined)
  assert.equal(manager.disposed, true)
  assert.equal(manager.device.backend, backend)
})

test('a moved buffer reads zeros after dispose, and corrupts no memory', { skip: needsTransfer }, async () => {
  const manager = make()
  const moved = new Uint8Array(manager.allocateNPUMemory(4096).transfer()).fill(1)
  manager.dispose()
  assert.ok(moved.length === 0 || moved.every((byte) => byte === 0))
  moved.fill(2)
  const next = make()
  assert.ok(new Uint8Array(next.allocateNPUMemory(4096)).every((byte) => byte === 0))
  await turnsUntil(() => false, 5)
  next.dispose()
})

test(
  'Symbol.dispose is dispose, for `using`',
  { skip: Symbol.dispose === undefined && 'this runtime has no Symbol.dispose' },
  () => {
    const manager = make()
    const buffer = manager.allocateNPUMemory(4096)
    manager[Symbol.dispose]()
    assert.equal(manager.disposed, true)
    assert.equal(buffer.byteLength, 0)
  },
)

test(
  "`using` calls an heir's dispose",
  { skip: Symbol.dispose === undefined && 'this runtime has no Symbol.dispose' },
  () => {
    let called = 0
    class Mine extends MemoryManager {
      dispose() {
        called++
        super.dispose()
      }
    }
    const manager = new Mine({ backend, device })
    manager[Symbol.dispose]()
    assert.equal(called, 1)
    assert.equal(manager.disposed, true)
  },
)

test('opening and disposing leaves nothing', () => {
  for (let i = 0; i < 3; i++) make().dispose()
  const fds = openFds()
  for (let i = 0; i < 50; i++) {
    const manager = make()
    manager.allocateNPUMemory(4096)
    manager.dispose()
  }
  assert.ok(fdsAtMost(fds) <= fds)
})

test('a manager is an EventEmitter', (t) => {
  const manager = open(t)
  assert.ok(manager instanceof EventEmitter)
  let heard
  manager.on('warning', (warning) => (heard = warning))
  manager.emit('warning', 'w')
  assert.equal(heard, 'w')
})

test('backend "auto" without an NPU: simulated, with one warning', () => {
  const { result, stderr } = runChild('auto.mjs')
  if (result.npu) {
    assert.equal(result.simulated, false)
    assert.equal(result.warnings.length, 0)
  } else {
    assert.equal(result.simulated, true)
    assert.deepEqual(result.warnings, ['RKLLM_SIMULATED_NPU'])
    assert.match(stderr, /RKLLM_SIMULATED_NPU/)
  }
})

test('backend "simulated" on purpose does not warn', () => {
  const { result } = runChild('auto.mjs', { args: ['simulated'] })
  assert.equal(result.simulated, true)
  assert.deepEqual(result.warnings, [])
})
