/**
 * One model of librkllmrt, in a process of its own: the worker of the server's residency. Its exports are the methods
 * that the server calls. No JavaScript runs on the runtime's threads: they call native callbacks of the session.
 */

import { clearTimeout, setTimeout } from 'node:timers'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'

import { MemoryManager } from '../../index.js'
import { loadRuntime } from './runtime.mjs'
import { StopFilter } from './stop-filter.mjs'

let [memory, session, runtime, settings] = []

/** Loads the model. `args` has one JSON text of its settings. */
export async function load({ domain, args }) {
  settings = JSON.parse(args[0])
  const { name, file, library, context, promptBytes, hidden, backend } = settings
  memory = new MemoryManager({ backend })
  session = memory.createInferenceBuffers({
    library, name, tag: name, contextLength: context, promptBytes,
    ...(hidden !== undefined && { hiddenSize: hidden, hiddenStates: true, embeddings: false }),
  })
  runtime = await loadRuntime(library, session.header, memory)
  const param = session.param({ model: file, async: true, ...(domain !== null && { domain }) })
  const status = runtime.init(session, param)
  if (status !== 0) throw new Error(`rkllm_init of ${file} returned ${status}`)
  if (runtime.useRawPrompts() !== 0) throw new Error('rkllm_set_chat_template refused an empty template')
}

/** Ends the runtime first, then the memory that it reads and writes. */
export function unload() {
  runtime.destroy()
  session.releaseCallbacks()
  session.dispose()
  const { liveAllocations } = memory.getMemoryStats()
  memory.dispose()
  if (liveAllocations > 0) throw new Error(`${liveAllocations} allocations were left`)
}

/**
 * Yields the text of a reply as it becomes certain, then its end: the reason, the tokens and OpenAI's `usage`.
 *
 * @param {{ prompt: string | number[], sampling: object, maxTokens: number, maxBytes: number, stop: string[] }} request
 * @param {{ signal: AbortSignal }} client
 */
export async function* generate({ prompt, sampling, maxTokens, maxBytes, stop }, { signal }) {
  const filter = new StopFilter(stop)
  const byRun = session.header === '1.3'
  let [tokens, bytes, reason, perf] = [0, 0, 'stop', null]
  for await (const result of run({ prompt, options: byRun ? { sampling, maxNewTokens: maxTokens } : {}, signal })) {
    perf = result.perf
    if (result.tokenId >= 0) tokens++
    const { text, stopped } = filter.push(result.text)
    bytes += Buffer.byteLength(text)
    if (bytes > maxBytes || tokens >= maxTokens) reason = 'length'
    if (bytes > maxBytes) break
    yield text
    // Before 1.3 the runtime knows no limit of a run.
    if (stopped || (byRun ? tokens > maxTokens : tokens === maxTokens)) break
  }
  if (bytes + Buffer.byteLength(filter.rest()) <= maxBytes) yield filter.rest()
  // The runtime counts the tokens of a prompt from header 1.2 on, in runs that ended by themselves.
  const read = perf?.prefillTokens ?? 0
  const usage = perf && { prompt_tokens: read, completion_tokens: tokens, total_tokens: read + tokens }
  yield { reason, tokens, read, usage }
}

/**
 * Returns an embedding of a prompt with length 1, and the number of rows that it was made of: the mean of the last
 * layer's hidden states, or the last one.
 *
 * @param {{ prompt: string | number[], pooling: 'mean' | 'last' }} request
 * @param {{ signal: AbortSignal }} client
 */
export async function embed({ prompt, pooling }, { signal }) {
  const vector = new Float32Array(settings.hidden)
  const width = vector.length
  let count = 0
  for await (const { rows } of run({ prompt, options: { mode: 'hiddenStates' }, signal })) {
    if (rows === 0) continue
    // They are there up to the next result.
    const states = session.hiddenStates.subarray(0, rows * width)
    if (pooling === 'last') vector.set(states.subarray(states.length - width))
    else for (let at = 0; at < states.length; at++) vector[at % width] += states[at]
    count += rows
  }
  if (count === 0) throw new Error('the runtime gave no hidden states')
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0))
  return { vector: length > 0 ? vector.map((value) => value / length) : vector, rows: count }
}

/** Yields the results of one run. It has ended when this generator has: then the next request may be written. */
async function* run({ prompt, options, signal }) {
  const infer = session.inferParam(options)
  const input = typeof prompt === 'string' ? session.promptInput(prompt) : tokenInput(prompt)
  const results = session.results({ signal })
  const watch = setTimeout(hang, 1000 * settings.stallSeconds)
  let finished = false
  try {
    if (runtime.run(session, input, infer) !== 0) throw new Error('rkllm_run_async refused the request')
    for await (const result of results) {
      watch.refresh()
      finished = result.state === 'finish'
      yield result
    }
  } finally {
    clearTimeout(watch)
    await results.return()
    if (!finished) runtime.abort()
    await untilIdle()
    // An aborted run may end without a last callback. With new callbacks, one that comes late finds nothing.
    if (!finished) session.releaseCallbacks()
  }
}

function tokenInput(ids) {
  session.tokens.set(ids)
  return session.tokenInput(ids.length)
}

async function untilIdle() {
  for (let turns = 0; turns < 100 && runtime.isRunning(); turns++) await turn()
  for (let waited = 0; runtime.isRunning(); waited += 2) {
    if (waited > 1000 * settings.stallSeconds) hang()
    await sleep(2)
  }
}

/** Nothing but the end of its process ends a run that hangs. The next request starts another. */
function hang() {
  console.error(`no result for ${settings.stallSeconds} s: the run hangs`)
  process.exit(1)
}
