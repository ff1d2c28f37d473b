/**
 * Measures a result of the RKLLM runtime: CPU time on the runtime's thread, and on the event loop, in batches.
 *
 *   node benchmark/sinks.mjs [--batches 2000]     bun and deno run the same file
 *
 * The runtime is a thread of C that calls the native callback (`__test__/support/result-thread.c`). Between batches it
 * sleeps, so that the event loop reads each batch by itself. The event loop's time is all of its thread's: the wake,
 * the iteration, and the loop of this program. Needs a C compiler (cc).
 */

import { loadResultThread } from '../__test__/support/result-thread.mjs'
import { MemoryManager } from '../index.js'
import { countsOf } from './options.mjs'

const { batches: count } = countsOf('sinks.mjs', { batches: { fallback: 2000, text: 'batches of results' } })
const ROUNDS = 5

const thread = await loadResultThread()
const memory = new MemoryManager({ backend: 'simulated' })
const session = memory.createInferenceBuffers({ contextLength: 16, hiddenSize: 8 })
const callbacks = session.callbacks()

async function measure(size) {
  const results = session.results()
  const before = { callback: thread.callbackNs(), loop: thread.threadNs() }
  thread.startBatches(callbacks, { count, size, pauseUs: 500 })
  let tokens = 0
  for await (const { state } of results) tokens += state === 'normal' ? 1 : 0
  const loop = thread.threadNs() - before.loop
  return { callback: (thread.callbackNs() - before.callback) / tokens / 1000, loop: loop / tokens / 1000 }
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1]

const runtime = process.versions.bun ? 'bun' : process.versions.deno ? 'deno' : 'node'
console.log(`${runtime} ${process.versions[runtime]}, ${count} batches, median of ${ROUNDS} rounds, CPU µs a result`)
console.log('| results a batch | runtime\'s thread | event loop |\n|---|---|---|')
await measure(16)
for (const size of [1, 16, 64]) {
  const rounds = []
  for (let round = 0; round < ROUNDS; round++) rounds.push(await measure(size))
  const of = (name) => median(rounds.map((figures) => figures[name])).toFixed(2)
  console.log(`| ${size} | ${of('callback')} | ${of('loop')} |`)
}
session.dispose()
memory.dispose()
