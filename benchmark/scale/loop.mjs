/**
 * Rows about a slow driver: the longest turn of the event loop, of the asynchronous call against the synchronous. The
 * asynchronous one is the processor time of the loop's thread, which other work on the machine does not change; by the
 * clock it stands beside turns without any call.
 */

import { setTimeout as sleep } from 'node:timers/promises'

import { MemoryManager, closeDmaBuf } from '../../index.js'
import { longestTurns } from './measure.mjs'

const MiB = 2 ** 20
const SPEC = { kind: 'npu', contextLength: 2048, hiddenSize: 1024, vocabSize: 32_000 }

/** A manager on a driver that takes `latencyMs` a call. */
function slow(latencyMs) {
  const manager = new MemoryManager({ backend: 'simulated', simulated: { latencyMs } })
  return { manager, end: () => manager.disposeAsync() }
}

/** A manager with a pool that has no room. */
function fullPool(latencyMs) {
  const opened = slow(latencyMs)
  const pool = opened.manager.createMemoryPool({ name: 'pool', initialSize: MiB, maxSize: 64 * MiB, chunkSize: MiB })
  pool.allocate(MiB)
  return { ...opened, pool }
}

/** Name → milliseconds of the driver, what stands before the call, and the call both ways. */
const CALLS = [
  ['a pool that grows', 300, fullPool, ({ pool }) => pool.allocate(4096), ({ pool }) => pool.allocateAsync(4096)],
  [
    'createMemoryPool', 500, slow,
    ({ manager }) => manager.createMemoryPool({ name: 'pool', initialSize: MiB }),
    ({ manager }) => manager.createMemoryPoolAsync({ name: 'pool', initialSize: MiB }),
  ],
  [
    'importDmaBuf', 500,
    (latencyMs) => {
      const opened = slow(latencyMs)
      const exporter = new MemoryManager({ backend: 'simulated' })
      const { fd } = exporter.exportDmaBuf(exporter.allocateNPUMemory(MiB, { dedicated: true }))
      const end = async () => {
        closeDmaBuf(fd)
        await opened.end()
        exporter.dispose()
      }
      return { ...opened, fd, end }
    },
    ({ manager, fd }) => manager.importDmaBuf(fd),
    ({ manager, fd }) => manager.importDmaBufAsync(fd),
  ],
  [
    'createInferenceBuffers', 500, slow,
    ({ manager }) => manager.createInferenceBuffers(SPEC),
    ({ manager }) => manager.createInferenceBuffersAsync(SPEC),
  ],
  [
    'dispose, of 100,000 buffers', 500,
    (latencyMs) => {
      const opened = slow(latencyMs)
      const live = Array.from({ length: 100_000 }, () => opened.manager.allocateNPUMemory(256, { zeroed: false }))
      return { ...opened, live }
    },
    ({ manager }) => manager.dispose(),
    ({ manager }) => manager.disposeAsync(),
  ],
]

/** @type {import('../scale.mjs').Row[]} */
export const rows = CALLS.map(([name, latencyMs, prepare, call, callAsync]) => ({
  name: `${name}, driver of ${latencyMs} ms`,
  sides: 'synchronous, by the clock : asynchronous, on a processor',
  unit: 'ms',
  reach: '5 ms',
  rounds: 5,
  async run({ rounds, update }) {
    const run = { times: rounds, update }
    const peer = await longestTurns({ ...run, times: 2 }, () => prepare(latencyMs), call)
    const subject = await longestTurns(run, () => prepare(latencyMs), callAsync)
    const idle = await longestTurns(run, () => ({ end: () => {} }), () => sleep(latencyMs))
    const shown = ({ median, max }) => `${median.toFixed(2)}, at most ${max.toFixed(2)}`
    const both = ({ ran, clock }) => `${shown(ran)} ms on a processor, ${shown(clock)} ms by the clock`
    const note = `asynchronous: ${both(subject)}; turns without a call: ${both(idle)}`
    return Object.assign([peer.clock, subject.ran], { note })
  },
}))
