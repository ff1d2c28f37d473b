/** Rows that compare a manager of a size with one of a tenth: what an operation costs beside what is live. */

import { readdirSync } from 'node:fs'

import { MemoryManager } from '../../index.js'
import { figuresOf, inTurn, timed } from './measure.mjs'

const MiB = 2 ** 20
const open = () => new MemoryManager({ backend: 'simulated' })

/** Samples the operation that `prepare(size)` makes, beside a tenth of the size and beside the whole. */
async function againstATenth(size, run, prepare) {
  const sides = [prepare(Math.round(size / 10)), prepare(size)]
  try {
    return await inTurn(run, sides[0].sample, sides[1].sample)
  } finally {
    for (const { manager } of sides) manager.dispose()
  }
}

/** A manager with `size` live buffers: slices of slabs. */
function withLive(size) {
  const manager = open()
  const live = Array.from({ length: size }, () => manager.allocateNPUMemory(256, { zeroed: false }))
  return { manager, live }
}

/** @type {import('../scale.mjs').Row[]} */
export const rows = [
  {
    name: 'one deallocate, after others',
    sizes: 60_000,
    unit: 'µs',
    reach: '200 µs',
    rounds: 2000,
    // The addresses of freed memory are the process's: the sides come one after the other. The freed ArrayBuffers are
    // held, so that the collector cannot end the quarantine of their addresses.
    async run({ size, rounds }) {
      const manager = open()
      const held = []
      const after = (count) => {
        while (held.length < count) {
          held.push(manager.allocateSystemMemory(4096))
          manager.deallocate(held.at(-1))
        }
        return figuresOf(
          Array.from({ length: rounds }, () => {
            const buffer = manager.allocateSystemMemory(4096)
            held.push(buffer)
            return timed(() => manager.deallocate(buffer))
          }),
        )
      }
      const result = [after(Math.round(size / 10)), after(size)]
      manager.dispose()
      return result
    },
  },
  {
    name: 'an allocation with a new tag, beside live tags',
    sizes: 16_000,
    unit: 'µs',
    reach: '5 µs',
    rounds: 4000,
    run: ({ size, ...run }) =>
      againstATenth(size, run, (tags) => {
        const manager = open()
        const pool = manager.createMemoryPool({ name: 'pool', initialSize: 64 * MiB })
        const live = Array.from({ length: tags }, (_, at) => pool.allocate(64, { tag: `live ${at}` }))
        let next = 0
        const sample = () => {
          let block
          const tag = `new ${next++}`
          const time = timed(() => (block = pool.allocate(64, { tag })))
          block.free()
          return time
        }
        return { manager, live, sample }
      }),
  },
  ...['reset', 'destroyMemoryPool'].map((verb) => ({
    name: `${verb} of a pool of 100 blocks, beside live buffers`,
    sizes: 100_000,
    unit: 'µs',
    reach: 'as the pool',
    rounds: 300,
    run: ({ size, ...run }) =>
      againstATenth(size, run, (count) => {
        const { manager, live } = withLive(count)
        let pool
        const sample = () => {
          pool ??= manager.createMemoryPool({ name: 'small', initialSize: 65_536 })
          const blocks = Array.from({ length: 100 }, () => pool.allocate(256))
          blocks.forEach((block) => block.buffer)
          if (verb === 'reset') return timed(() => pool.reset())
          const time = timed(() => manager.destroyMemoryPool(pool, { force: true }))
          pool = undefined
          return time
        }
        return { manager, live, sample }
      }),
  })),
  {
    name: 'an allocation from a pool, by its chunks',
    sizes: 20_000,
    unit: 'µs',
    reach: '20 µs',
    rounds: 4000,
    run: ({ size, ...run }) =>
      againstATenth(size, run, (chunks) => {
        const manager = open()
        const sizes = { initialSize: 4096, chunkSize: 4096, maxSize: 2 ** 30 }
        const pool = manager.createMemoryPool({ name: 'pool', kind: 'system', ...sizes })
        const blocks = Array.from({ length: chunks }, () => pool.allocate(4096))
        let at = 0
        const sample = () => {
          at = (at + 7919) % blocks.length
          blocks[at].free()
          return timed(() => (blocks[at] = pool.allocate(4096)))
        }
        return { manager, sample }
      }),
  },
  {
    name: 'getMemoryStats, beside live buffers; a twentieth',
    sizes: 20_000,
    unit: 'µs',
    reach: 'ratio 1.2',
    rounds: 4000,
    async run({ size, ...run }) {
      const sides = [Math.round(size / 20), size].map(withLive)
      const sampleOf = ({ manager }) => () => timed(() => manager.getMemoryStats())
      const result = await inTurn(run, sampleOf(sides[0]), sampleOf(sides[1]))
      for (const { manager } of sides) manager.dispose()
      return result
    },
  },
  {
    name: 'new MemoryManager, each with a buffer',
    sizes: 200,
    unit: 'ms',
    reach: '2 ms',
    rounds: 1,
    async run({ size }) {
      const managers = []
      const times = []
      const held = () => ({
        threads: readdirSync('/proc/self/task').length,
        descriptors: readdirSync('/proc/self/fd').length,
      })
      const before = held()
      const upTo = (count) => {
        while (managers.length < count) {
          times.push(timed(() => managers.push(open())) / 1000)
          managers.at(-1).allocateNPUMemory(4096)
        }
        const now = held()
        return {
          figures: figuresOf(times.splice(0)),
          text: `${now.threads - before.threads} threads, ${now.descriptors - before.descriptors} descriptors`,
        }
      }
      const [peer, subject] = [upTo(Math.round(size / 10)), upTo(size)]
      for (const manager of managers) manager.dispose()
      const result = [peer.figures, subject.figures]
      return Object.assign(result, { note: `${peer.text} : ${subject.text}` })
    },
  },
]
