// Uses the package where the globals of the runtime are replaced: the argument "missing" removes them before the
// package is loaded, "fake" installs the fake timers of node:test after it.

import { createRequire } from 'node:module'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { mock } from 'node:test'
import timers from 'node:timers'

const require = createRequire(import.meta.url)
const [, , way] = process.argv
const { nextTick } = process
const { setTimeout: later, clearTimeout: stop } = timers
const GLOBALS = [
  'AbortSignal', 'Buffer', 'TextDecoder', 'TextEncoder', 'URL', 'clearImmediate', 'clearInterval', 'clearTimeout',
  'fetch', 'performance', 'queueMicrotask', 'setImmediate', 'setInterval', 'setTimeout', 'structuredClone',
]
const controller = new AbortController()
if (way === 'missing') for (const name of GLOBALS) delete globalThis[name]
const { MemoryManager } = require('../../../index.js')
if (way === 'fake') {
  mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'setImmediate', 'Date'] })
  process.nextTick = globalThis.queueMicrotask = () => {} // sinon fakes them too
  globalThis.performance.now = () => 0
}

const MiB = 2 ** 20
const done = {}
/** Records the outcome of a promise; "hangs" if it has none. */
async function settles(name, promise) {
  let timer
  const hangs = new Promise((resolve) => (timer = later(resolve, 20_000, 'hangs')))
  const outcome = promise.then(
    (value) => value?.byteLength ?? 'resolved',
    (error) => error.code ?? error.name,
  )
  done[name] = await Promise.race([outcome, hangs])
  stop(timer)
}

const manager = new MemoryManager({
  backend: 'simulated',
  limits: { npu: { max: 4 * MiB } },
  profiling: { sampleInterval: 1, leakAfterMs: 60_000 },
})
let warned = 0
manager.on('warning', () => warned++)
const held = manager.allocateNPUMemory(3 * MiB)
await settles('fits', manager.allocateNPUMemoryAsync(1000, { signal: controller.signal }))
await settles('at the limit', manager.allocateNPUMemoryAsync(2 * MiB))
await settles('sync', manager.syncToDeviceAsync(held))
manager.allocateNPUMemory(900_000)
await settles('a warning', new Promise((resolve) => {
  const poll = () => (warned > 0 ? resolve() : later(poll, 10))
  poll()
}))
process.nextTick = nextTick // zlib and streams of Node itself need it
const folder = mkdtempSync(join(tmpdir(), 'rkllm-globals-'))
for (const extension of ['html', 'json', 'csv', 'pb.gz', 'trace.json', 'prom'])
  await settles(extension, manager.writeReport(join(folder, `report.${extension}`)))
rmSync(folder, { recursive: true })
const pool = manager.createMemoryPool({ name: 'system', kind: 'system', initialSize: 1 << 16 })
pool.allocate(64, { movable: true }).free()
done.limits = manager.getMemoryLimits().npu.max
done.fast = manager.optimizeMemory().durationMs >= 0
const buffers = manager.createInferenceBuffers({ kind: 'system', contextLength: 8, hiddenSize: 8 })
done.prompt = typeof buffers.promptInput('größer')
done.date = Math.abs(manager.takeSnapshot().takenAt - require('node:perf_hooks').performance.timeOrigin) < 86_400_000
manager.dispose()
console.log(JSON.stringify(done))
process.exit()

