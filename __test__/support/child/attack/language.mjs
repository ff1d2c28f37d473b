/** Attacks with the means of the language: getters, proxies, prototypes, shared memory. */

import assert from 'node:assert/strict'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { inspect, types } from 'node:util'
import { markAsUntransferable } from 'node:worker_threads'

import { MemoryManager } from '../../../../index.js'
import { open } from '../open.mjs'
import { can, fill, free, fresh, holds, manager, may, node, objects, SIZES } from './tools.mjs'

export const language = {
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
