/** Serves a handler of Request and Response: with Bun.serve in Bun, with Node's http in Node and Deno. */

import { createServer } from 'node:http'

/** Longer than clients keep idle connections: else one may send a request just when the server closes. */
const KEEP_ALIVE_MS = 75_000

/**
 * @param {(request: Request, context: { signal: AbortSignal }) => Promise<Response>} handle
 * @param {{ host: string, port: number }} address
 * @returns {Promise<{ url: string, close: () => Promise<void> }>} `close` ends once all responses are sent
 */
export const serve = (handle, address) =>
  process.versions.bun === undefined ? withNode(handle, address) : withBun(handle, address)

function withBun(handle, { host, port }) {
  const server = globalThis.Bun.serve({
    hostname: host,
    port,
    // The queue decides how long a request may wait.
    idleTimeout: 0,
    fetch: (request) => handle(request, { signal: request.signal }),
  })
  return { url: urlOf(host, server.port), close: () => server.stop() }
}

async function withNode(handle, { host, port }) {
  /** Responses under way, and what to call when there is none. */
  let [responses, idle] = [0, undefined]
  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, (incoming, outgoing) => {
    if (idle !== undefined) outgoing.setHeader('connection', 'close')
    responses++
    outgoing.once('close', () => --responses === 0 && idle?.())
    respond(handle, incoming, outgoing).catch((error) => outgoing.destroy(error))
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

const urlOf = (host, port) => `http://${host.includes(':') ? `[${host}]` : host}:${port}`

async function respond(handle, incoming, outgoing) {
  const gone = new AbortController()
  outgoing.once('close', () => {
    if (!outgoing.writableFinished) gone.abort(new Error('the client has gone'))
  })
  const response = await handle(requestOf(incoming), { signal: gone.signal })
  // Drops a body that the handler did not read: the next request of the connection follows it.
  incoming.resume()
  outgoing.writeHead(response.status, Object.fromEntries(response.headers))
  if (response.body === null) return outgoing.end()
  for await (const piece of response.body) {
    // A client that reads slowly holds the stream back; one that has gone ends it.
    if (outgoing.destroyed) break
    if (!outgoing.write(piece)) await drained(outgoing)
  }
  outgoing.end()
}

function requestOf(incoming) {
  const { method, headers, url } = incoming
  const hasBody = method !== 'GET' && method !== 'HEAD'
  return new Request(new URL(url, 'http://localhost'), {
    method,
    headers: Object.entries(headers).filter(([, value]) => typeof value === 'string'),
    // Reads nothing before the handler does.
    ...(hasBody && { body: ReadableStream.from(incoming), duplex: 'half' }),
  })
}

/** Resolves when the socket takes more, or has closed. */
function drained(outgoing) {
  return new Promise((resolve) => {
    const done = () => {
      outgoing.off('drain', done).off('close', done)
      resolve()
    }
    outgoing.on('drain', done).on('close', done)
  })
}
