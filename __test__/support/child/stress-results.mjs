/**
 * Runs sessions in workers that are terminated at random, while foreign threads go on calling their callbacks. Each
 * worker checks that its results are complete and in order.
 *
 *   node __test__/support/child/stress-results.mjs CALLBACKS [SEED] [LIBRARY]
 */

import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

import { MemoryManager } from '../../../index.js'
import { loadResultThread } from '../result-thread.mjs'

const TOKENS = 2000

/** xorshift32: a number below `below`. */
function randomOf(seed) {
  let state = seed | 1
  return (below) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}

if (isMainThread) await main(Number(process.argv[2] ?? 100_000), Number(process.argv[3] ?? 1), process.argv[4])
else await work(workerData)

async function main(callbacks, seed, library) {
  const thread = await loadResultThread(library)
  const random = randomOf(seed)
  const total = { tokens: 0, runs: 0, terminated: 0, ended: 0 }
  const deadWorkers = []
  const one = async (seed) => {
    // Reading a message first: a worker that is terminated while it loads tests nothing.
    const worker = new Worker(new URL(import.meta.url), { workerData: { seed, library: thread.path } })
    let failure
    const exited = new Promise((resolve) => worker.once('exit', resolve))
    const limit = random(4)
    let rounds = 0
    let stopping = false
    worker.on('error', (error) => (failure = error))
    worker.on('message', ({ tokens }) => {
      total.tokens += tokens
      total.runs++
      if (++rounds <= limit || stopping) return
      stopping = true
      if (random(8) === 0) {
        total.ended++
        worker.postMessage('end')
      } else {
        total.terminated++
        deadWorkers.push(worker.terminate())
      }
    })
    await exited
    if (failure) throw failure
  }
  let nextSeed = seed
  const lane = async () => {
    while (total.tokens < callbacks) await one(++nextSeed)
  }
  await Promise.all([lane(), lane(), lane()])
  await Promise.all(deadWorkers)
  while (thread.running() > 0) await new Promise((resolve) => setImmediate(resolve))
  console.log(JSON.stringify({ ...total, runtime: process.versions.bun ?? process.versions.deno ?? process.version }))
}

async function work({ seed, library }) {
  const thread = await loadResultThread(library)
  const random = randomOf(seed * 7919)
  const manager = new MemoryManager({ backend: 'simulated' })
  let over = false
  parentPort.on('message', () => (over = true))
  while (!over) {
    const rows = random(2) * 2
    const session = manager.createInferenceBuffers({
      header: ['1.1', '1.2.0', '1.2', '1.3'][random(4)],
      contextLength: 16,
      hiddenSize: 64,
      hiddenStates: { tokens: 2 },
    })
    const addresses = session.callbacks({ ringBytes: [1024, 4096, 65536][random(3)] })
    const answers = session.header === '1.2' || session.header === '1.3'
    for (let round = random(3); round >= 0; round--) {
      const first = random(1000)
      const results = session.results()
      thread.start(addresses, { answers, first, tokens: TOKENS, hidden: [rows, 64] })
      let next = first
      for await (const { tokenId, state, text, rows: given } of results) {
        if (state === 'finish') break
        const hidden = rows === 0 || session.hiddenStates[0] === next - first
        if (tokenId !== next || text !== `${next} ` || given !== rows || !hidden)
          throw new Error(`token ${tokenId} ${JSON.stringify(text)}, ${given} rows, in place of ${next}, ${rows} rows`)
        next++
      }
      if (next !== first + TOKENS) throw new Error(`the run ended at ${next - first} tokens of ${TOKENS}`)
      parentPort.postMessage({ tokens: TOKENS })
    }
    if (random(2) === 0) {
      // A run whose reader leaves, and which the worker's end may overtake.
      const results = session.results()
      thread.start(addresses, { answers, tokens: TOKENS, hidden: [rows, 64] })
      await results.next()
      await results.return()
      if (random(2) === 0) session.releaseCallbacks()
    }
    try {
      session.dispose()
    } catch (error) {
      if (error.code !== 'ERR_BUFFER_BUSY') throw error
    }
  }
  process.exit(0)
}
