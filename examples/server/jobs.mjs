/** The work behind a request: memory under the tenant's tag, a place in the queue, a run of the model. */

import { ApiError } from './errors.mjs'
import { StopFilter } from './stop-filter.mjs'
import { Workspace } from './workspace.mjs'

/**
 * The parts that all jobs share.
 *
 * @typedef {object} Server
 * @property {import('../../index.js').MemoryManager} memory
 * @property {import('./model.mjs').Model} model
 * @property {import('./queue.mjs').Queue} queue
 * @property {{ memoryKind: 'npu' | 'system', pooling: 'mean' | 'last' }} options
 * @property {ReturnType<typeof import('./metrics.mjs').makeMetrics>} metrics
 * @property {(reason: unknown) => void} onStuck
 */

/** Takes the memory of a request, once there is room in the queue. */
async function workspaceOf({ memory, queue, options }, request) {
  queue.expectRoom()
  return await Workspace.take(memory, { kind: options.memoryKind, ...request })
}

/** Runs `task` in its turn. A run that hangs ends the server. */
function inTurn({ queue, model, onStuck }, workspace, controller, task) {
  return queue.run({ bytes: workspace.bytes, controller }, async () => {
    if (model.stuck) throw new ApiError(503, 'model_stuck', 'the model hangs: this server restarts', { retryAfter: 10 })
    try {
      return await task()
    } finally {
      if (model.stuck) onStuck()
    }
  })
}

/**
 * Begins a completion. Resolves at its first text or its end, so that an error before it has a status of its own; the
 * run goes on. `outcome` resolves at the end of the run.
 *
 * @param {Server} server
 * @param {{ prompts: (string | number[])[], maxTokens: number, stop: string[], sampling: object }} plan
 * @param {{ tag: string, controller: AbortController }} client
 */
export async function generate(server, { prompts, maxTokens, stop, sampling }, { tag, controller }) {
  const { model } = server
  const { signal } = controller
  const workspace = await workspaceOf(server, { tag, prompts, maxTokens, signal })
  const filter = new StopFilter(stop)
  let [tokens, reason, perf, begin] = [0, 'stop', null]
  const begun = new Promise((resolve) => (begin = resolve))

  const take = (result) => {
    begin()
    perf = result.perf
    if (result.tokenId >= 0) tokens++
    const { text, stopped } = filter.push(result.text)
    const full = !workspace.append(text)
    // Before 1.3 the runtime knows no limit of a run.
    const enough = model.samplesByRun ? tokens > maxTokens : tokens === maxTokens
    if (full || tokens >= maxTokens) reason = 'length'
    return !(stopped || full || enough)
  }
  const run = async () => {
    const prompt = workspace.prompt(0)
    await model.run({ prompt, sampling, maxNewTokens: maxTokens, signal }, take)
    if (!workspace.append(filter.rest())) reason = 'length'
    server.metrics.tokens.inc({ kind: 'generated' }, tokens)
    if (perf !== null) server.metrics.tokens.inc({ kind: 'prompt' }, perf.prefillTokens)
    return { reason, usage: usageOf(perf, tokens) }
  }
  const outcome = inTurn(server, workspace, controller, run)
  outcome.then(
    () => workspace.end(),
    (error) => workspace.end(error),
  )
  try {
    await Promise.race([begun, outcome])
  } catch (error) {
    workspace.free()
    throw error
  }
  return { workspace, outcome }
}

/** The runtime counts the tokens of a prompt from header 1.2 on, in runs that ended by themselves; else null. */
function usageOf(perf, completion) {
  if (perf === null) return null
  const { prefillTokens: prompt } = perf
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
}

/**
 * Returns an embedding of each prompt, normalized, and the number of rows that they were made of.
 *
 * @param {Server} server
 * @param {{ prompts: (string | number[])[] }} plan
 * @param {{ tag: string, controller: AbortController }} client
 * @param {(vectors: Float32Array[], rows: number) => R} use reads the vectors, which are freed afterwards
 * @returns {Promise<R>}
 * @template R
 */
export async function embed(server, { prompts }, { tag, controller }, use) {
  const { model, options } = server
  const { signal } = controller
  const { hidden } = model
  const workspace = await workspaceOf(server, { tag, prompts, floats: prompts.length * hidden, signal })
  let rows = 0
  const one = async (vector, at) => {
    let count = 0
    await model.run({ prompt: workspace.prompt(at), mode: 'hiddenStates', signal }, (result) => {
      if (result.rows === 0) return
      pool(vector, model.rowsOf(result), options.pooling)
      count += result.rows
    })
    if (count === 0) throw new ApiError(500, 'server_error', 'the runtime gave no hidden states')
    rows += count
    normalize(vector)
  }
  try {
    const vectors = prompts.map((_, at) => workspace.floats.subarray(at * hidden, (at + 1) * hidden))
    await inTurn(server, workspace, controller, async () => {
      for (const [at, vector] of vectors.entries()) await one(vector, at)
    })
    server.metrics.tokens.inc({ kind: 'prompt' }, rows)
    return use(vectors, rows)
  } finally {
    workspace.free()
  }
}

/** Adds rows to `vector`, or keeps the last one. The length of the sum is of no account: it is normalized. */
function pool(vector, rows, pooling) {
  const width = vector.length
  if (pooling === 'last') return vector.set(rows.subarray(rows.length - width))
  for (let at = 0; at < rows.length; at++) vector[at % width] += rows[at]
}

function normalize(vector) {
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0))
  if (length > 0) for (let at = 0; at < vector.length; at++) vector[at] /= length
}
