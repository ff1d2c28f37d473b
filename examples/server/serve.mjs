/** Serves a handler with Bun.serve in Bun, with Node's http in Node and Deno. */

import { createServer } from 'node:http'
import { pipeline } from 'node:stream/promises'

/**
 * Plain objects, in place of Request and Response: those take longer than all else that a server does with a request.
 *
 * @typedef {{ method: string, path: string, headers: Record<string, string>, body: AsyncIterable<Uint8Array> }} Ask
 * @typedef {{ status: number, headers: Record<string, string>, body: string | AsyncIterable<string> }} Reply
 * @typedef {(request: Ask, controller: AbortController) => Promise<Reply>} Handler `controller` aborts when the client
 * has gone
 */

/** Longer than clients keep idle connections: else one may send a request just when the server closes. */
const KEEP_ALIVE_MS = 75_000
const gone = () => new Error('the client has gone')

/**
 * @param {Handler} handle
 * @param {{ host: string, port: number }} address
 * @returns {Promise<{ url: string, close: () => Promise<void> }>} `close` ends once all responses are sent
 */
export const serve = (handle, address) =>
  process.versions.bun === undefined ? withNode(handle, address) : withBun(handle, address)

const urlOf = (host, port) => `http://${host.includes(':') ? `[${host}]` : host}:${port}`

function withBun(handle, { host, port }) {
  const server = globalThis.Bun.serve({
    hostname: host,
    port,
    // The server's own bound decides how long a request may wait.
    idleTimeout: 0,
    async fetch(request) {
      const controller = new AbortController()
      request.signal.addEventListener('abort', () => controller.abort(gone()), { once: true })
      const { method, url, headers, body } = request
      const { pathname: path } = new URL(url)
      const asked = { method, path, headers: Object.fromEntries(headers), body: body ?? [] }
      const reply = await handle(asked, controller)
      return new Response(typeof reply.body === 'string' ? reply.body : streamOf(reply.body, controller), reply)
    },
  })
  return { url: urlOf(host, server.port), close: () => server.stop() }
}

/** A stream of texts, whose end by the client aborts `controller`. */
function streamOf(texts, controller) {
  const [encoder, iterator] = [new TextEncoder(), texts[Symbol.asyncIterator]()]
  return new ReadableStream({
    async pull(stream) {
      const { value, done } = await iterator.next()
      if (done) stream.close()
      else stream.enqueue(encoder.encode(value))
    },
    async cancel() {
      controller.abort(gone())
      await iterator.return()
    },
  })
}

async function withNode(handle, { host, port }) {
  /** Responses under way, and what to call when there is none. */
  let [responses, idle] = [0, undefined]
  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, async (incoming, outgoing) => {
    if (idle !== undefined) outgoing.setHeader('connection', 'close')
    responses++
    const controller = new AbortController()
    outgoing.once('close', () => {
      if (!outgoing.writableFinished) controller.abort(gone())
      if (--responses === 0) idle?.()
    })
    const { method, url, headers } = incoming
    const [path] = url.split('?')
    const { status, body, headers: answered } = await handle({ method, path, headers, body: incoming }, controller)
    // Drops a body that the handler did not read: the next request of the connection follows it.
    incoming.resume()
    outgoing.writeHead(status, answered)
    if (typeof body === 'string') outgoing.end(body)
    // A client that reads slowly holds the stream back; one that has gone ends it.
    else await pipeline(body, outgoing).catch(() => outgoing.destroy())
  })
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, host, resolve))
  // Connections that are kept alive are no reason to wait: Deno does not close idle ones.
  const close = () =>
    new Promise((resolve) => {
      idle = resolve
      server.close()
      server.closeIdleConnections()
      if (responses === 0) resolve()
    })
  return { url: urlOf(host, server.address().port), close }
}
