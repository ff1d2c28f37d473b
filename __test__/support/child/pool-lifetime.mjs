/** Slices with ArrayBuffers that outlive their pool. argv names the way. Needs --expose-gc. */

import assert from 'node:assert/strict'
import { writeSync } from 'node:fs'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { markAsUntransferable, Worker } from 'node:worker_threads'

import { open } from './open.mjs'

const KiB = 1024
const [, , way, end] = process.argv
const all = (buffer, byte) => new Uint8Array(buffer).every((found) => found === byte)
const fill = (buffer, byte) => (new Uint8Array(buffer).fill(byte), buffer)
const manager = open()
const make = (options) => manager.createMemoryPool({ name: 'p', initialSize: 64 * KiB, ...options })

async function collect(done, turns = 200) {
  for (let i = 0; i < turns && !done(); i++) {
    gc()
    await nextTurn()
  }
  return done()
}

const ways = {
  /** The collector frees dropped buffers and blocks with a buffer; blocks without one stay until an explicit free. */
  async dropped() {
    const pool = make({ initialSize: 1024 * KiB })
    const keep = fill(pool.allocateBuffer(4096), 7)
    const view = new Uint8Array(pool.allocate(4096).buffer, 100, 10).fill(8)
    const block = pool.allocate(4096)
    ;(() => {
      for (let i = 0; i < 50; i++) {
        fill(pool.allocateBuffer(4096), 1)
        fill(pool.allocate(4096).buffer, 1)
        pool.allocate(4096, { tag: 'x' })
      }
      pool.allocate(4096)
    })()
    const before = pool.stats().liveAllocations
    // The collector frees no block whose buffer was never read.
    await collect(() => pool.stats().liveAllocations === 54)
    const { liveAllocations, allocated, requested } = pool.stats()
    assert.ok(all(keep, 7) && view.every((byte) => byte === 8) && !block.freed)
    for (let i = 0; i < 100; i++) fill(pool.allocate(4096).buffer, 2)
    assert.ok(all(keep, 7) && view.every((byte) => byte === 8), 'no other slice has their bytes')
    return { before, liveAllocations, allocated, requested }
  },

  /** A slice is not reused before the collection of the ArrayBuffer that received its bytes. */
  async moved() {
    const pool = make({ initialSize: 8 * KiB })
    const addresses = []
    let moved = ((block) => (addresses.push(block.address), fill(block.buffer.transfer(), 5)))(pool.allocate(8 * KiB))
    for (let i = 0; i < 20; i++) {
      gc()
      await nextTurn()
      assert.throws(() => pool.allocate(64), { code: 'ERR_POOL_EXHAUSTED' })
      assert.ok(all(moved, 5))
    }
    moved = undefined
    assert.ok(await collect(() => pool.stats().liveAllocations === 0))
    const next = pool.allocate(8 * KiB)
    addresses.push(next.address)
    return { same: addresses[0] === addresses[1], freed: next.freed }
  },

  /** An undetachable buffer reads zeros after the end of its pool, and its addresses stay unused. */
  async held() {
    const pool = make({ initialSize: 64 * KiB, maxSize: 1024 * KiB, kind: 'npu' })
    const [marked, block, loose] = [fill(pool.allocateBuffer(4096), 1), pool.allocate(4096), pool.allocate(4096)]
    markAsUntransferable(marked)
    const kept = fill(block.buffer, 2)
    markAsUntransferable(kept)
    const moved = typeof marked.transfer === 'function' ? fill(pool.allocate(4096).buffer.transfer(), 3) : undefined
    const { address } = manager.describe(marked)
    if (end === 'reset') pool.reset()
    if (end === 'destroy') manager.destroyMemoryPool(pool, { force: true })
    if (end === 'dispose') manager.dispose()
    const live = end === 'dispose' ? 0 : manager.getMemoryStats().liveAllocations
    const attached = [marked, kept, moved].filter((buffer) => buffer?.byteLength > 0)
    const taken = attached.length > 0 ? [address, address + BigInt(64 * KiB)] : [0n, 0n]
    const zero = () => attached.every((buffer) => all(buffer, 0))
    assert.ok(zero(), 'stale bytes')
    assert.deepEqual([block.freed, loose.freed], [true, true])
    const other = end === 'dispose' ? open() : manager
    const next =
      end === 'reset' ? pool : other.createMemoryPool({ name: 'next', initialSize: 64 * KiB, maxSize: 1024 * KiB })
    for (let i = 0; i < 100; i++) {
      const fresh = next.allocate(4096)
      assert.ok(fresh.address < taken[0] || fresh.address >= taken[1], 'an old buffer still reaches this address')
      fill(fresh.buffer, 0xff)
      const alone = other.allocateNPUMemory(64 * KiB)
      const at = other.describe(alone).address
      assert.ok(at < taken[0] || at >= taken[1])
      fill(alone, 0xff)
    }
    assert.ok(zero(), 'bytes of another slice')
    for (const buffer of attached) fill(buffer, 0x11)
    assert.ok(all(next.allocate(64, { zeroed: true }).buffer, 0))
    if (end === 'reset') assert.equal(pool.stats().liveAllocations, 101)
    other.dispose()
    return { attached: attached.length, moved: moved !== undefined, live }
  },

  /** Terminates workers with pools, blocks, buffers and moved buffers: other threads keep their memory. */
  async workers() {
    const mine = make()
    const [buffer, block] = [fill(mine.allocateBuffer(4096), 0x5a), mine.allocate(4096)]
    fill(block.buffer, 0x5b)
    for (let i = 0; i < 6; i++) {
      const worker = new Worker(
        `const { parentPort } = require('node:worker_threads')
         const { MemoryManager } = require(${JSON.stringify(new URL('../../../index.js', import.meta.url).pathname)})
         const manager = new MemoryManager({
           backend: ${JSON.stringify(process.env.RKLLM_TEST_BACKEND ?? 'simulated')},
         })
         globalThis.kept = [manager]
         for (const kind of ['npu', 'system']) {
           const pool = manager.createMemoryPool({ name: kind, kind, initialSize: 65536, maxSize: 1 << 22 })
           for (let i = 0; i < 50; i++) {
             const block = pool.allocate(1000)
             if (i % 2) new Uint8Array(block.buffer).fill(0xff)
             if (i % 5 === 0) block.free()
             kept.push(block, pool.allocateBuffer(100), manager.allocateNPUMemory(100))
           }
         }
         // Moves bytes out of the worker, which then ends. Their pool has no pinned block, which would keep it.
         const last = manager.createMemoryPool({ name: 'last', initialSize: 65536 }).allocateBuffer(4096)
         new Uint8Array(last).fill(0x33)
         const moved = typeof last.transfer === 'function' ? last.transfer() : new ArrayBuffer(0)
         parentPort.postMessage(moved, [moved])
         setInterval(() => { for (const block of kept) try { block.pin?.() } catch {} }, 1)`,
        { eval: true },
      )
      const received = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
      if (received.byteLength > 0) assert.ok(all(received, 0x33))
      await worker.terminate()
      // Deno ends the environment with a delay.
      for (let wait = 0; wait < 1000 && !all(received, 0); wait++) await sleep(5)
      assert.ok(all(received, 0), 'the memory ended with its manager, but its addresses stay reserved')
      const more = Array.from({ length: 20 }, () => fill(manager.allocateNPUMemory(64 * KiB), 0x77))
      assert.ok(all(received, 0), 'the addresses are not reused')
      more.forEach((one) => manager.deallocate(one))
    }
    assert.ok(all(buffer, 0x5a) && all(block.buffer, 0x5b))
    return { mine: mine.stats().liveAllocations }
  },

  /** Drops a manager with its pool: a slice lives as long as its ArrayBuffer. */
  async orphan() {
    const view = (() => {
      const pool = open().createMemoryPool({ name: 'p', initialSize: 64 * KiB })
      pool.allocate(100)
      return new Uint8Array(pool.allocateBuffer(4096)).fill(4)
    })()
    await collect(() => false, 20)
    assert.ok(view.every((byte) => byte === 4))
    return { length: view.length }
  },
}

const result = await ways[way]()
writeSync(1, `${JSON.stringify(result)}\n`)
// Node 24 and 26 abort at exit with a live marked buffer: exit without their cleanup.
if (way === 'held') process.reallyExit(0)
