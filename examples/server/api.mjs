/** The routes of OpenAI's API, as one function from a request to a reply. */

import { randomUUID } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { ApiError, json, toApiError } from './errors.mjs'
import { embed, generate } from './jobs.mjs'
import { chat, completion, embedding } from './requests.mjs'
import { makeTurns } from './turns.mjs'

const REQUESTS_A_TURN = 8
/** Bytes of a body of unknown length that are read to be dropped. */
const MAX_DROPPED_BYTES = 64 * 1024 * 1024

/**
 * @param {import('./jobs.mjs').Server & { tenants: import('./tenants.mjs').Tenants }} server
 * @returns {import('./serve.mjs').Handler}
 */
export function makeHandler(server) {
  const { models, metrics, tenants, memory, options } = server
  const begin = makeTurns(REQUESTS_A_TURN)

  const routes = {
    'GET /healthz': health,
    'GET /metrics': async () => textReply(await metrics.text(), metrics.contentType),
    'GET /debug/memory.html': async ({ headers }) => {
      tenants.expectAdmin(headers)
      return textReply(await memoryReport(memory), 'text/html; charset=utf-8')
    },
    'GET /v1/models': ({ headers }) => {
      tenants.of(headers)
      return json({ object: 'list', data: models.cards() })
    },
    'GET /v1/models/:id': ({ headers, path }) => {
      tenants.of(headers)
      const { name } = models.find(decoded(path.slice('/v1/models/'.length)))
      return json(models.cards().find(({ id }) => id === name))
    },
    'POST /v1/chat/completions': (request, controller) => complete(request, controller, chat, CHAT),
    'POST /v1/completions': (request, controller) => complete(request, controller, completion, TEXT),
    'POST /v1/embeddings': embeddings,
  }

  function health() {
    const { running, waiting, closed } = models
    const states = Object.fromEntries(models.cards().map(({ id, state }) => [id, state]))
    return json({ status: closed ?? 'ok', models: states, running, waiting }, closed === undefined ? 200 : 503)
  }

  /** Reads a request's tenant, and the plan that `readPlan` makes of its body. */
  async function read({ headers, body }, readPlan) {
    const { tag } = tenants.of(headers)
    // A full server refuses before it reads: that costs it least.
    models.expectRoom()
    const text = await limitedText(headers, body, options.maxBody)
    let fields
    try {
      fields = JSON.parse(text)
    } catch (error) {
      throw new ApiError(400, 'invalid_json', `the body is not JSON: ${error.message}`)
    }
    const model = models.find(fields?.model ?? undefined)
    return { tag, plan: { model, ...readPlan(fields, model, Math.min(options.maxTokens, model.context)) } }
  }

  async function complete(request, controller, readPlan, shape) {
    const { tag, plan } = await read(request, readPlan)
    const { workspace, outcome } = await generate(server, plan, { tag, controller })
    const created = Math.floor(Date.now() / 1000)
    const head = { id: `${shape.prefix}-${randomUUID()}`, created, model: plan.model.name }
    // The run writes into the memory up to its end.
    const free = () => outcome.catch(() => {}).finally(() => workspace.free())
    try {
      // Waits for the first text: an error before it has a status of its own.
      const first = await workspace.read()
      if (plan.stream) {
        // A stream that was never read has no other end than this.
        controller.signal.addEventListener('abort', free, { once: true })
        const body = eventsOf({ first, workspace, outcome, free, head, shape, plan, controller, toError })
        return { status: 200, headers: { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' }, body }
      }
      const { reason, usage } = await outcome
      const text = `${first ?? ''}${(await workspace.read()) ?? ''}`
      free()
      return json({ ...head, object: shape.object, choices: [shape.whole(text, reason)], usage })
    } catch (error) {
      free()
      throw error
    }
  }

  async function embeddings(request, controller) {
    const { tag, plan } = await read(request, embedding)
    const shown = (vector) =>
      plan.format === 'float'
        ? [...vector]
        : Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('base64')
    const { vectors, rows } = await embed(server, plan, { tag, controller }, shown)
    const data = vectors.map((vector, index) => ({ object: 'embedding', index, embedding: vector }))
    return json({ object: 'list', model: plan.model.name, data, usage: { prompt_tokens: rows, total_tokens: rows } })
  }

  const toError = (error) => toApiError(error, (bytes) => models.secondsUntilFree(bytes))

  /** The name of a request's route. */
  function routeOf({ method, path }) {
    const known = path.startsWith('/v1/models/') ? '/v1/models/:id' : path
    if (Object.hasOwn(routes, `${method} ${known}`)) return `${method} ${known}`
    const other = Object.keys(routes).find((route) => route.endsWith(` ${known}`))
    if (other === undefined) throw new ApiError(404, 'not_found', `there is no ${path}`)
    throw new ApiError(405, 'method_not_allowed', `${path} takes ${other.split(' ')[0]}`)
  }

  return async function handle(request, controller) {
    let route = 'other'
    let reply
    try {
      route = routeOf(request)
      // Health and metrics are wanted most when the server is full.
      if (request.method !== 'GET') await begin()
      reply = await routes[route](request, controller)
    } catch (error) {
      const closed = () => new ApiError(499, 'client_closed', 'the client has gone')
      const found = hasGone(controller.signal) ? closed() : toError(error)
      if (found.status === 500) console.error(`${route}: ${error?.stack ?? error}`)
      reply = found.toReply()
    }
    metrics.requests.inc({ route, status: reply.status })
    return reply
  }
}

/** Reads a body of at most `most` bytes. Drops the rest of a longer one, so that its sender reads the answer. */
async function limitedText(headers, body, most) {
  const tooLarge = () => new ApiError(413, 'request_too_large', `the body has more than ${most} bytes`)
  if (Number(headers['content-length']) > most) throw tooLarge()
  const pieces = []
  let size = 0
  for await (const piece of body) {
    size += piece.byteLength
    if (size <= most) pieces.push(piece)
    if (size > MAX_DROPPED_BYTES) break
  }
  if (size > most) throw tooLarge()
  return Buffer.concat(pieces).toString()
}

/** A part of a path as text: as it is, where its encoding is wrong. */
function decoded(part) {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

const choice = (content, reason) => ({ index: 0, ...content, logprobs: null, finish_reason: reason })
const CHAT = {
  prefix: 'chatcmpl',
  object: 'chat.completion',
  chunk: 'chat.completion.chunk',
  whole: (content, reason) => choice({ message: { role: 'assistant', content } }, reason),
  first: [choice({ delta: { role: 'assistant', content: '' } }, null)],
  part: (content) => choice({ delta: { content } }, null),
  last: (reason) => choice({ delta: {} }, reason),
}
const TEXT = {
  prefix: 'cmpl',
  object: 'text_completion',
  chunk: 'text_completion',
  whole: (text, reason) => choice({ text }, reason),
  part: (text) => choice({ text }, null),
  last: (reason) => choice({ text: '' }, reason),
}

/** Whether the client has gone. The server's own end has an error for it. */
const hasGone = (signal) => signal.aborted && !(signal.reason instanceof ApiError)

/** The events of a streamed completion. The memory is freed at the end, or when the client has gone. */
async function* eventsOf({ first, workspace, outcome, free, head, shape, plan, controller, toError }) {
  const event = (value) => `data: ${JSON.stringify(value)}\n\n`
  const chunk = (choices, more) => event({ ...head, object: shape.chunk, choices, ...more })
  try {
    if (shape.first !== undefined) yield chunk(shape.first)
    for (let text = first; text !== undefined; text = await workspace.read()) yield chunk([shape.part(text)])
    const { reason, usage } = await outcome
    yield chunk([shape.last(reason)])
    if (plan.usage) yield chunk([], { usage })
    yield 'data: [DONE]\n\n'
  } catch (error) {
    if (!hasGone(controller.signal)) yield event(toError(error))
  } finally {
    free()
  }
}

const textReply = (body, type) => ({ status: 200, headers: { 'content-type': type }, body })

async function memoryReport(memory) {
  const folder = await mkdtemp(join(tmpdir(), 'memory-report-'))
  try {
    const path = join(folder, 'memory.html')
    await memory.writeReport(path)
    return await readFile(path, 'utf8')
  } finally {
    await rm(folder, { recursive: true })
  }
}
