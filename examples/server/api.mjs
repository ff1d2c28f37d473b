/** The routes of OpenAI's API, as one function from Request to Response. */

import { randomUUID } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { ApiError, toApiError } from './errors.mjs'
import { embed, generate } from './jobs.mjs'
import { chat, completion, embedding } from './requests.mjs'
import { Turns } from './turns.mjs'

const REQUESTS_A_TURN = 8
/** Bytes of a body of unknown length that are read to be dropped. */
const MAX_DROPPED_BYTES = 64 * 1024 * 1024

/**
 * Returns the handler. `context.signal` aborts when the client has gone.
 *
 * @param {import('./jobs.mjs').Server & { tenants: import('./tenants.mjs').Tenants }} server
 * @returns {(request: Request, context?: { signal?: AbortSignal }) => Promise<Response>}
 */
export function makeHandler(server) {
  const { model, queue, metrics, tenants, memory, options } = server
  const card = { id: model.id, object: 'model', created: model.created, owned_by: 'local' }
  const turns = new Turns(REQUESTS_A_TURN)
  const limits = { maxTokens: Math.min(options.maxTokens, model.context) }

  const routes = {
    'GET /healthz': () => health(),
    'GET /metrics': async () => answerOf(await metrics.text(), metrics.contentType),
    'GET /debug/memory.html': (request) => {
      tenants.expectAdmin(request.headers)
      return memoryReport(memory)
    },
    'GET /v1/models': (request) => {
      tenants.of(request.headers)
      return Response.json({ object: 'list', data: [card] })
    },
    'POST /v1/chat/completions': (request, controller) => complete(request, controller, chat, CHAT),
    'POST /v1/completions': (request, controller) => complete(request, controller, completion, TEXT),
    'POST /v1/embeddings': embeddings,
  }

  function health() {
    const state = model.stuck ? 'stuck' : (queue.closed ?? 'ok')
    const body = { status: state, model: model.id, running: queue.running, waiting: queue.waiting }
    return Response.json(body, { status: state === 'ok' ? 200 : 503 })
  }

  async function read(request) {
    const { tag } = tenants.of(request.headers)
    // A full server refuses before it reads: that costs it least.
    queue.expectRoom()
    const text = await limitedText(request, options.maxBodyBytes)
    try {
      const body = JSON.parse(text)
      if (body?.model !== undefined) expectModel(body.model)
      return { tag, body }
    } catch (error) {
      if (error instanceof ApiError) throw error
      throw new ApiError(400, 'invalid_json', `the body is not JSON: ${error.message}`)
    }
  }

  function expectModel(id) {
    if (id === model.id) return
    const message = `there is no model ${JSON.stringify(id)}; this server has ${JSON.stringify(model.id)}`
    throw new ApiError(404, 'model_not_found', message, { param: 'model' })
  }

  async function complete(request, controller, readPlan, shape) {
    const { tag, body } = await read(request)
    const { stream, usage: wantsUsage, ...plan } = readPlan(body, model, limits)
    const { signal } = controller
    const { workspace, outcome } = await generate(server, plan, { tag, controller })
    const head = { id: `${shape.prefix}-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model: model.id }
    // The run writes into the memory up to its end, and a stream that was never read has no other end than this.
    const freed = () => outcome.catch(() => {}).finally(() => workspace.free())
    if (stream) {
      signal.addEventListener('abort', freed, { once: true })
      const events = eventsOf({ workspace, outcome, head, shape, wantsUsage, signal, toError, freed })
      return sse(events, () => controller.abort(new Error('the client ended its stream')))
    }
    try {
      const { reason, usage } = await outcome
      const text = (await workspace.read()) ?? ''
      return Response.json({ ...head, object: shape.object, choices: [shape.whole(text, reason)], usage })
    } finally {
      workspace.free()
    }
  }

  async function embeddings(request, controller) {
    const { tag, body } = await read(request)
    const { format, ...plan } = embedding(body, model)
    const shown = (vector) =>
      format === 'float'
        ? [...vector]
        : Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('base64')
    return await embed(server, plan, { tag, controller }, (vectors, rows) => {
      const data = vectors.map((vector, index) => ({ object: 'embedding', index, embedding: shown(vector) }))
      const usage = { prompt_tokens: rows, total_tokens: rows }
      return Response.json({ object: 'list', model: model.id, data, usage })
    })
  }

  const toError = (error) => toApiError(error, (bytes) => queue.secondsUntilFree(bytes))

  async function answer(request, controller) {
    const { pathname } = new URL(request.url)
    const name = `${request.method} ${pathname}`
    if (Object.hasOwn(routes, name)) return [name, await routes[name](request, controller)]
    if (request.method === 'GET' && pathname.startsWith('/v1/models/')) {
      tenants.of(request.headers)
      expectModel(decodeURIComponent(pathname.slice('/v1/models/'.length)))
      return ['GET /v1/models/:id', Response.json(card)]
    }
    const methods = Object.keys(routes).filter((route) => route.endsWith(` ${pathname}`))
    if (methods.length === 0) throw new ApiError(404, 'not_found', `there is no ${pathname}`)
    throw new ApiError(405, 'method_not_allowed', `${pathname} takes ${methods[0].split(' ')[0]}`)
  }

  return async function handle(request, { signal = request.signal } = {}) {
    let name = 'other'
    let response
    // Aborts when the client has gone, ends its stream, or the server ends.
    const controller = new AbortController()
    const gone = () => controller.abort(signal.reason)
    signal.addEventListener('abort', gone, { once: true })
    if (signal.aborted) gone()
    try {
      const { pathname } = new URL(request.url)
      name = Object.keys(routes).find((route) => route === `${request.method} ${pathname}`) ?? name
      // Health and metrics are wanted most when the server is full.
      if (request.method !== 'GET') await turns.enter()
      ;[name, response] = await answer(request, controller)
    } catch (error) {
      const closed = () => new ApiError(499, 'client_closed', 'the client has gone')
      const reply = hasGone(controller.signal) ? closed() : toError(error)
      if (reply.status === 500) console.error(`${name}: ${error?.stack ?? error}`)
      response = reply.toResponse()
    }
    metrics.requests.inc({ route: name, status: response.status })
    return response
  }
}

/** Reads a body of at most `most` bytes. Drops the rest of a longer one, so that its sender reads the answer. */
async function limitedText(request, most) {
  const tooLarge = () => new ApiError(413, 'request_too_large', `the body has more than ${most} bytes`)
  if (Number(request.headers.get('content-length')) > most) throw tooLarge()
  const pieces = []
  let size = 0
  for await (const piece of request.body ?? []) {
    size += piece.byteLength
    if (size <= most) pieces.push(piece)
    if (size > MAX_DROPPED_BYTES) break
  }
  if (size > most) throw tooLarge()
  return new TextDecoder().decode(pieces.length === 1 ? pieces[0] : Buffer.concat(pieces))
}

const choice = (content, reason) => ({ index: 0, ...content, logprobs: null, finish_reason: reason })
const CHAT = {
  prefix: 'chatcmpl',
  object: 'chat.completion',
  chunk: 'chat.completion.chunk',
  whole: (content, reason) => choice({ message: { role: 'assistant', content } }, reason),
  first: { role: 'assistant', content: '' },
  part: (delta, reason) => choice({ delta }, reason),
  delta: (content) => ({ content }),
}
const TEXT = {
  prefix: 'cmpl',
  object: 'text_completion',
  chunk: 'text_completion',
  whole: (text, reason) => choice({ text }, reason),
  part: (text, reason) => choice({ text }, reason),
  delta: (text) => text ?? '',
}

/** Whether the client has gone. The server's own end has an error for it. */
const hasGone = (signal) => signal.aborted && !(signal.reason instanceof ApiError)

/** The events of a streamed completion. The memory is freed at the end, or when the client has gone. */
async function* eventsOf({ workspace, outcome, head, shape, wantsUsage, signal, toError, freed }) {
  const chunk = (choices, more) => ({ ...head, object: shape.chunk, choices, ...more })
  try {
    if (shape.first !== undefined) yield chunk([shape.part(shape.first, null)])
    for (let text = await workspace.read(); text !== undefined; text = await workspace.read())
      yield chunk([shape.part(shape.delta(text), null)])
    const { reason, usage } = await outcome
    yield chunk([shape.part(shape.first === undefined ? '' : {}, reason)])
    if (wantsUsage) yield chunk([], { usage })
    yield '[DONE]'
  } catch (error) {
    if (!hasGone(signal)) yield toError(error)
  } finally {
    freed()
  }
}

/** Server-sent events of `items`; `cancel` is called when the client ends the stream. */
function sse(items, cancel) {
  const encoder = new TextEncoder()
  const body = new ReadableStream({
    async pull(controller) {
      const { value, done } = await items.next()
      if (done) return controller.close()
      const text = typeof value === 'string' ? value : JSON.stringify(value)
      controller.enqueue(encoder.encode(`data: ${text}\n\n`))
    },
    async cancel() {
      cancel()
      await items.return()
    },
  })
  return new Response(body, { headers: { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' } })
}

const answerOf = (body, type) => new Response(body, { headers: { 'content-type': type } })

async function memoryReport(memory) {
  const folder = await mkdtemp(join(tmpdir(), 'memory-report-'))
  try {
    const path = join(folder, 'memory.html')
    await memory.writeReport(path)
    return answerOf(await readFile(path), 'text/html; charset=utf-8')
  } finally {
    await rm(folder, { recursive: true })
  }
}
