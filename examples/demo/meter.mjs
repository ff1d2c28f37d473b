/** Wraps the manager: times each allocate and deallocate, and counts allocations and frees. */

import { performance } from 'node:perf_hooks'

export class Meter {
  allocate = new Latencies()
  deallocate = new Latencies()
  /** Buffers that deallocate() accepted and did not detach. */
  stillAttached = 0
  #manager

  constructor(manager) {
    this.#manager = manager
  }

  npu(size, tag) {
    const start = performance.now()
    const buffer = this.#manager.allocateNPUMemory(size, { tag })
    this.allocate.add(performance.now() - start)
    return buffer
  }

  system(size, tag) {
    const start = performance.now()
    const buffer = this.#manager.allocateSystemMemory(size, { tag })
    this.allocate.add(performance.now() - start)
    return buffer
  }

  free(buffer) {
    const start = performance.now()
    this.#manager.deallocate(buffer)
    this.deallocate.add(performance.now() - start)
    if (buffer.byteLength !== 0) this.stillAttached++
  }
}

/** Keeps every sample: a p99.9 from buckets would be a guess. */
class Latencies {
  #samples = new Float64Array(1024)
  count = 0

  add(milliseconds) {
    if (this.count === this.#samples.length) {
      const larger = new Float64Array(this.count * 2)
      larger.set(this.#samples)
      this.#samples = larger
    }
    this.#samples[this.count++] = milliseconds
  }

  /** Returns quantiles in microseconds. */
  quantiles(shares) {
    const sorted = this.#samples.slice(0, this.count).sort()
    return shares.map((share) => 1000 * sorted[Math.min(this.count - 1, Math.floor(share * this.count))])
  }
}
