/** Attacks on the ends of pools, managers, workers and the process. */

import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { markAsUntransferable } from 'node:worker_threads'

import { open } from '../open.mjs'
import {
  bun, can, fill, free, fresh, holds, leave, manager, may, node, objects, quietly, SIZES, worker,
} from './tools.mjs'

export const ends = {
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
}
