/** The work behind a request: memory under the tenant's tag, then a run of the model. */

import { Workspace } from './workspace.mjs'

/**
 * The parts that all jobs share.
 *
 * @typedef {object} Server
 * @property {import('../../index.js').MemoryManager} memory
 * @property {import('./models.mjs').Models} models
 * @property {{ memory: 'npu' | 'system', pooling: 'mean' | 'last', maxTokens: number, maxBody: number }} options
 * @property {ReturnType<typeof import('./metrics.mjs').makeMetrics>} metrics
 *
 * @typedef {{ tag: string, controller: AbortController }} Client
 */

/** Room for the text of a reply: bytes for each token. */
const REPLY_BYTES_PER_TOKEN = 16

/** Takes the memory of a request, once there is room in the queue. */
async function workspaceOf({ memory, models, options }, prompts, bytes, { tag, controller }) {
  models.expectRoom()
  return await Workspace.take(memory, { kind: options.memory, tag, prompts, bytes, signal: controller.signal })
}

/**
 * Begins a completion. `outcome` resolves at the end of its run; the text is in the workspace.
 *
 * @param {Server} server
 * @param {import('./requests.mjs').Plan} plan
 * @param {Client} client
 */
export async function generate(server, { model, prompts, maxTokens, stop, sampling }, client) {
  const { models, metrics } = server
  const workspace = await workspaceOf(server, prompts, maxTokens * REPLY_BYTES_PER_TOKEN, client)
  const outcome = models.run(model, { ...client, bytes: workspace.bytes }, async (engine) => {
    const { signal } = client.controller
    const request = { prompt: workspace.prompts()[0], sampling, maxTokens, maxBytes: workspace.room, stop }
    let end
    for await (const item of engine.generate(request, { signal }))
      if (typeof item === 'string') workspace.append(item)
      else end = item
    metrics.tokens.inc({ kind: 'generated' }, end.tokens)
    metrics.tokens.inc({ kind: 'prompt' }, end.read)
    return end
  })
  outcome.then(
    () => workspace.end(),
    (error) => workspace.end(error),
  )
  return { workspace, outcome }
}

/**
 * Returns an embedding of each prompt as `shown` makes it, and the number of rows that they were made of.
 *
 * @param {Server} server
 * @param {import('./requests.mjs').Plan} plan
 * @param {Client} client
 * @param {(vector: Float32Array) => T} shown reads a vector, which is freed afterwards
 * @returns {Promise<{ vectors: T[], rows: number }>}
 * @template T
 */
export async function embed(server, { model, prompts }, client, shown) {
  const { models, metrics, options: { pooling } } = server
  const { hidden } = model
  const workspace = await workspaceOf(server, prompts, 4 * prompts.length * hidden, client)
  try {
    const vectors = prompts.map((_, at) => workspace.floats.subarray(at * hidden, (at + 1) * hidden))
    let rows = 0
    await models.run(model, { ...client, bytes: workspace.bytes }, async (engine) => {
      const { signal } = client.controller
      for (const [at, prompt] of workspace.prompts().entries()) {
        const one = await engine.embed({ prompt, pooling }, { signal })
        vectors[at].set(one.vector)
        rows += one.rows
      }
    })
    metrics.tokens.inc({ kind: 'prompt' }, rows)
    return { vectors: vectors.map(shown), rows }
  } finally {
    workspace.free()
  }
}
