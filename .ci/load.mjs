// Loads examples/server with many connections, while the device and the understudy fail, and clients go away:
//   npm run load [-- --seconds 600] [--connections 200]
// Every request must be answered, or refused with a status of its own, and nothing may be left afterwards. Prints the
// figures of each phase, with the delay of the server's event loop; they are no condition.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'

import autocannon from 'autocannon'

import { startServer, until } from '../__test__/support/server.mjs'

const { values } = parseArgs({
  options: { seconds: { type: 'string', default: '60' }, connections: { type: 'string', default: '200' } },
})
const [seconds, connections] = [values.seconds, values.connections].map(Number)
if (!(seconds >= 4) || !Number.isInteger(connections) || connections < 4) {
  console.error('load: --seconds must be at least 4, --connections a whole number from 4 up')
  process.exit(2)
}

const CANCELLING = 8
const KEYS = ['sk-tight', 'sk-wide', 'sk-free']
const folder = mkdtempSync(join(tmpdir(), 'load-'))
const tenants = join(folder, 'tenants.json')
writeFileSync(tenants, JSON.stringify([
  { key: 'sk-tight', tag: 'tight', maxBytes: 3 * 4096 },
  { key: 'sk-wide', tag: 'wide', maxBytes: 2 ** 20 },
  { key: 'sk-free', tag: 'free' },
]))

const user = (content) => [{ role: 'user', content }]
const LONG = 'a longer prompt '.repeat(40)
/** What each connection asks, in turn. */
const ASKED = [
  ['/v1/chat/completions', { messages: user('Hello'), stream: true }],
  ['/v1/chat/completions', { messages: user(LONG), max_tokens: 64 }],
  ['/v1/embeddings', { input: ['a', LONG, 'c'] }],
  ['/v1/completions', { prompt: 'once', max_tokens: 20, stop: ['e', 'tt'], stream: true }],
  ['/v1/completions', { prompt: [1, 2, 3], max_tokens: 500 }],
  ['/v1/chat/completions', { messages: user('Hello'), temperature: 7 }],
  ['/v1/embeddings', { input: LONG, encoding_format: 'base64' }],
]
const BEYOND_CONTEXT = ['/v1/completions', { prompt: 'x'.repeat(5000), max_tokens: 8 }]

const board = (options) => ['--memory', 'npu', '--simulated', JSON.stringify(options)]
const REFUSALS = [400, 429, 503]
/** Phases: their share of the time, the faults, and statuses that are answers besides 200. */
const PHASES = [
  { name: 'a queue for all', share: 0.25, args: ['--queue', '512'], faults: {}, allowed: [400, 429] },
  { name: 'a full queue, asked again at once', share: 0.15, args: [], faults: {}, allowed: REFUSALS },
  {
    name: 'a slow driver, a full domain', share: 0.15, faults: { TOKENS_PER_SECOND: 4000 }, allowed: [...REFUSALS, 413],
    args: board({ domainBytes: 256 * 1024, domains: 1, latencyMs: 2 }),
  },
  {
    name: 'few objects, rows kept', share: 0.15, faults: { KEEP_OUTPUT: 1 }, allowed: REFUSALS,
    args: board({ maxObjects: 3, domainBytes: 2 ** 20 }),
  },
  {
    name: 'two models, room for one', share: 0.15, faults: {}, allowed: REFUSALS, models: ['a', 'b'],
    args: ['--model', 'a', '--model', 'b', '--ram', String(2 ** 26), '--models-ram', String(1.5 * 2 ** 26)],
  },
  {
    name: 'runs that fail', share: 0.15, faults: { TOKENS_PER_SECOND: 2000 }, allowed: [...REFUSALS, 500], args: [],
    more: [BEYOND_CONTEXT],
  },
]

const problems = []
const expect = (condition, what) => condition || problems.push(what)

/** Sends requests from all connections for `duration` seconds. Resolves with autocannon's figures. */
const fire = (url, duration, asked) =>
  autocannon({
    // Seconds: an answer that is late on a busy machine is no fault.
    url, connections, duration, timeout: 300,
    requests: asked.map(([path, body], at) => ({
      method: 'POST', path, body: JSON.stringify(body), headers: { authorization: `Bearer ${KEYS[at % KEYS.length]}` },
    })),
  })

/** Asks for streams and goes away in the middle of them, until `stop`. Returns how often. */
async function cancel(url, stop) {
  let cancelled = 0
  for (let at = 0; !stop.aborted; at++) {
    const client = new AbortController()
    const body = JSON.stringify({ messages: user(`client ${at}`), stream: true })
    const headers = { authorization: 'Bearer sk-free' }
    try {
      // Some go before the answer, some after its first bytes.
      if (at % 2 === 0) setTimeout(() => client.abort(), at % 10)
      const { signal } = client
      const response = await fetch(`${url}/v1/chat/completions`, { method: 'POST', body, headers, signal })
      await response.body.getReader().read()
      client.abort()
      await sleep(1)
    } catch (error) {
      expect(client.signal.aborted, `a client that goes away was told ${error.cause ?? error}`)
    }
    if (client.signal.aborted) cancelled++
  }
  return cancelled
}

async function phase({ name, share, args, faults, allowed, models = [undefined], more = [] }) {
  const ends = []
  const server = await startServer({ after: (end) => ends.push(end) }, ['--tenants', tenants, ...args], faults)
  const wrong = (what) => expect(false, `${name}: ${what}\n${server.log().slice(-2000)}`)
  try {
    if (server.url === undefined) return wrong('the server did not start')
    const live = async () => {
      const counts = await Promise.all(
        ['npu', 'system'].map((kind) => server.metric(`rkllm_memory_live_allocations{kind="${kind}"}`)),
      )
      return counts[0] + counts[1]
    }
    const before = await live()
    const stop = new AbortController()
    const cancelling = Array.from({ length: CANCELLING }, () => cancel(server.url, stop.signal))
    const asked = models.flatMap((model) => [...ASKED, ...more].map(([path, body]) => [path, { ...body, model }]))
    const found = await fire(server.url, Math.max(1, Math.round(seconds * share)), asked)
    stop.abort()
    const cancelled = (await Promise.all(cancelling)).reduce((sum, count) => sum + count)

    const { errors, timeouts, latency, statusCodeStats } = found
    const statuses = Object.fromEntries(Object.entries(statusCodeStats).map(([code, { count }]) => [code, count]))
    if (errors > 0 || timeouts > 0) wrong(`${errors} requests failed, ${timeouts} got no answer`)
    for (const code of Object.keys(statuses))
      if (![200, ...allowed].includes(Number(code))) wrong(`${statuses[code]} answers have status ${code}`)
    if (!(statuses[200] > 0)) wrong('no request was served')
    for (const code of allowed.filter((one) => one === 500)) if (!statuses[code]) wrong(`no answer has status ${code}`)
    await until(async () => {
      const { running, waiting } = await server.health()
      return running + waiting === 0
    }, `${name}: requests still wait or run`)
    await until(async () => (await live()) === before, `${name}: live allocations, ${before} before`)

    for (const model of models.filter(Boolean)) {
      const loads = await server.metric(`rkllm_memory_model_loads_total{model_name="${model}"}`)
      if (!(loads > 0)) wrong(`${model} was never loaded`)
    }

    server.signal('SIGTERM')
    const { status, left, eventLoopDelayP99Ms } = await server.ended()
    if (status !== 0 || !left || Object.values(left).some((count) => count !== 0))
      wrong(`the server ended with ${status}, left ${JSON.stringify(left)}`)
    console.log(
      `${name}: ${JSON.stringify(statuses)}, ${cancelled} went away; latency p50 ${latency.p50} ms, ` +
        `p99 ${latency.p99} ms; event loop delay p99 ${eventLoopDelayP99Ms?.toFixed(1)} ms`,
    )
  } finally {
    for (const end of ends) await end()
  }
}

console.log(`${connections} connections and ${CANCELLING} that go away, ${seconds} s in all`)
try {
  for (const one of PHASES) await phase(one)
} catch (error) {
  problems.push(error.stack)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
for (const problem of problems) console.error(`FAILED: ${problem}`)
if (problems.length === 0) console.log('Every request was answered or refused, and nothing is left.')
process.exit(problems.length === 0 ? 0 : 1)
