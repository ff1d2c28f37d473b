/**
 * A server's day: a fixed number of live buffers of every kind, replaced at random at a steady rate, with new tags,
 * short-lived pools, imports, shared memory and threads. Each buffer carries a number that is checked when it is freed.
 */

import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

import { MemoryManager, closeDmaBuf } from '../../index.js'
import { ENDS, runWorker } from './workers.mjs'

const [KiB, MiB] = [1024, 2 ** 20]
/** Replacements in one turn of the event loop. */
const BATCH = 16
/** Calls that wait for the driver on other threads at the same time. */
const MAX_IN_FLIGHT = 64
/** One of so many frees is left to the collector, and one waits for a promise. */
const DROPPED = 64
const LATER = 67
/**
 * One of so many NPU allocations has a tag. A slice whose last owner had another tag is cleared, for which the driver
 * cleans the CPU's caches: with a driver of 40 ms the library's threads do that some 200 times a second.
 */
const TAGGED = 40

export class Workload {
  /** Figures since the last row. */
  operations = 0
  wrong = 0
  #options
  #manager
  #pools
  #slots
  #shared
  #random
  #tag = 0
  #number = 1
  #inFlight = 0
  #stopped = false
  /** Slots whose buffer is not there yet. */
  #pending = 0
  /** Buffers that were left to the collector or to a promise, and may live for a while. */
  #waiting = 0

  /** @param {{ live: number, tags: number, latency: number, rate: number, workers: number, seed: number }} options */
  constructor(options) {
    this.#options = options
    this.#random = options.seed
    this.#slots = new Array(options.live).fill(undefined)
    this.#manager = new MemoryManager({ backend: 'simulated', simulated: { latencyMs: options.latency } })
    const share = options.live * KiB
    const pool = (name, others) =>
      this.#manager.createMemoryPool({ name, initialSize: Math.max(MiB, share), chunkSize: 16 * MiB, ...others })
    this.#pools = {
      blocks: pool('blocks', { initialSize: Math.max(MiB, 4 * share) }),
      fixed: pool('fixed', { blockSize: 4 * KiB }),
      system: pool('system', { kind: 'system' }),
    }
    this.#shared = this.#manager.allocateNPUMemory(64 * KiB, { dedicated: true })
  }

  get size() {
    return this.#options.live
  }

  /** Fills every slot as fast as the driver allows. `progress(done)` is called now and then. */
  async fill(progress) {
    for (let at = 0; at < this.#slots.length; at++) {
      this.#allocate(at)
      if (at % BATCH === 0) {
        progress(at)
        await this.#turn()
      }
    }
    while (this.#pending > 0) await sleep(1)
  }

  /** Replaces buffers at the rate of the options until `stop`. */
  async run() {
    const began = performance.now()
    await Promise.all([
      this.#every(60_000 / this.#options.workers, (at) =>
        runWorker(this.#manager.share(this.#shared), ENDS[at % ENDS.length]),
      ),
      this.#every(5000, (at) => this.#shortPool(at)),
      this.#every(1000, () => this.#import()),
      (async () => {
        for (let done = 0; !this.#stopped; ) {
          const due = ((performance.now() - began) * this.#options.rate) / 1000
          this.#tag = Math.floor(((performance.now() - began) * this.#options.tags) / 60_000)
          for (let i = 0; i < BATCH && done < due; i++, done++) this.#replace(this.#below(this.#slots.length))
          if (done < due) await this.#turn()
          else await sleep(1)
        }
      })(),
    ])
    while (this.#pending > 0) await sleep(1)
  }

  stop() {
    this.#stopped = true
  }

  /** Figures of the manager. */
  figures() {
    const usage = this.#manager.getMemoryUsage()
    const pools = usage.pools.reduce((sum, pool) => sum + pool.waiting, 0)
    const lost = [usage.npu.lost.objects, usage.npu.slabs.lost.slices, usage.system.lost.mappings]
    return {
      live: usage.npu.liveAllocations + usage.system.liveAllocations,
      tags: Object.keys(usage.tags).length,
      waiting: pools + usage.npu.slabs.waiting,
      lost: lost.reduce((sum, count) => sum + count, 0),
      objects: usage.npu.objects,
      withheld: usage.process.addresses.withheld,
      heap: usage.process.heapUsed,
    }
  }

  /** Frees everything; returns how many allocations the manager still counts. */
  async end() {
    for (let at = 0; at < this.#slots.length; at++) {
      this.#free(at, true)
      if (at % BATCH === 0) await nextTurn()
    }
    this.#manager.deallocate(this.#shared)
    for (let i = 0; i < 200 && this.#waiting > 0; i++) await sleep(10)
    for (let i = 0; i < 200 && this.#manager.getMemoryStats().liveAllocations > 0; i++) {
      // Collects dropped buffers, whose finalizers run in later turns.
      this.#manager.optimizeMemory({ trim: false, defragment: false })
      await sleep(10)
    }
    const { liveAllocations } = this.#manager.getMemoryStats()
    this.#manager.dispose()
    return liveAllocations
  }

  /** Calls `act` every `ms`, one call at a time, until the end. */
  async #every(ms, act) {
    for (let at = 0; !this.#stopped; at++) {
      await act(at)
      for (const next = performance.now() + ms; performance.now() < next && !this.#stopped; ) await sleep(50)
    }
  }

  async #turn() {
    do await nextTurn()
    while (this.#inFlight >= MAX_IN_FLIGHT)
  }

  #below(limit) {
    this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0
    return Math.floor((this.#random / 2 ** 32) * limit)
  }

  #replace(at) {
    if (this.#slots[at] === PENDING) return
    this.#free(at)
    this.#allocate(at)
    this.operations++
  }

  #allocate(at) {
    const manager = this.#manager
    const { blocks, fixed, system } = this.#pools
    const size = 64 << this.#below(8)
    const tag = `tag ${this.#tag}`
    const options = this.#below(TAGGED) === 0 ? { tag } : { zeroed: false }
    const kind = this.#below(1000)
    if (kind < 500) this.#later(at, manager.allocateNPUMemoryAsync(size, options))
    else if (kind < 501) this.#later(at, manager.allocateNPUMemoryAsync(size, { tag, dedicated: true }))
    else if (kind < 750) this.#fromPool(at, blocks, size, options)
    else if (kind < 760) this.#fromPool(at, blocks, size, { ...options, movable: true })
    else if (kind < 950) this.#fromPool(at, fixed, Math.min(size, 4096), options)
    else if (kind < 990) this.#keep(at, system.allocate(size, { tag }))
    else this.#keep(at, manager.allocateSystemMemory(size, { tag }))
  }

  /** Allocates from a pool of NPU memory: on another thread where the slice may have to be cleared. */
  #fromPool(at, pool, size, options) {
    if (options.tag === undefined) this.#keep(at, pool.allocate(size, options))
    else this.#later(at, pool.allocateAsync(size, options))
  }

  #later(at, coming) {
    this.#slots[at] = PENDING
    this.#pending++
    this.#inFlight++
    coming.then(
      (buffer) => {
        this.#inFlight--
        this.#pending--
        this.#keep(at, buffer)
      },
      (error) => {
        throw error
      },
    )
  }

  /** Writes the buffer's number. The bytes of a block are read for every second one, as an ArrayBuffer costs more. */
  #keep(at, memory) {
    const number = (this.#number = (this.#number + 1) >>> 0 || 1)
    const bytes = memory instanceof ArrayBuffer ? memory : number % 2 === 0 ? memory.buffer : undefined
    if (bytes !== undefined) new Uint32Array(bytes, 0, 1)[0] = number
    this.#slots[at] = { memory, number, written: bytes !== undefined }
  }

  #free(at, now = false) {
    const slot = this.#slots[at]
    if (slot === undefined) return
    this.#slots[at] = undefined
    const { memory, number, written } = slot
    const isBlock = !(memory instanceof ArrayBuffer)
    if (written && new Uint32Array(isBlock ? memory.buffer : memory, 0, 1)[0] !== number) this.wrong++
    if (!now && number % DROPPED === 0) return // the collector frees it
    if (!now && number % LATER === 0) {
      this.#waiting++
      this.#manager.deallocateWhen(memory, sleep(this.#below(1000))).finally(() => this.#waiting--)
    } else if (isBlock) memory.free()
    else this.#manager.deallocate(memory)
  }

  /** A pool that lives for a second, as one of a request. */
  async #shortPool(at) {
    const options = { name: `short ${at}`, initialSize: 256 * KiB, tag: `tag ${this.#tag}` }
    const pool = await this.#manager.createMemoryPoolAsync(options)
    const kept = Array.from({ length: 100 }, () => pool.allocate(1 * KiB))
    kept.slice(50).forEach((block) => block.free())
    await sleep(1000)
    this.#manager.destroyMemoryPool(pool, { force: true })
  }

  /** Exports a buffer, imports it again, and closes the descriptor. */
  async #import() {
    const { fd } = this.#manager.exportDmaBuf(this.#shared)
    const imported = await this.#manager.importDmaBufAsync(fd, { tag: 'imported' })
    closeDmaBuf(fd)
    this.#manager.deallocate(imported)
  }
}

const PENDING = Symbol('a buffer that the driver is making')
