/** Starts examples/server on the understudy, in a process of the runtime under test. */

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

import OpenAI from 'openai'

import { runtime } from './helpers.mjs'
import { until as poll } from './until.mjs'

const MAIN = fileURLToPath(new URL('../../examples/server/main.mjs', import.meta.url))
/** No test waits so long for an answer, except on a server that hangs. */
const PATIENCE_MS = 300_000
/** Live allocations of a server that has ended. */
export const NOTHING = { liveAllocations: 0, npuUsed: 0, systemUsed: 0 }
export const HELLO = { model: 'understudy', messages: [{ role: 'user', content: 'Hello' }] }

const FLAGS = runtime === 'deno' ? ['run', '--allow-all', '--no-check'] : []

/**
 * Starts the server with `args`, and ends it after the test. Resolves once it listens, or has ended.
 *
 * @param {{ after: (end: () => Promise<void>) => void }} t
 * @param {string[]} args
 * @param {Record<string, string | number>} [understudy] settings of the understudy, without their prefix
 */
export async function startServer(t, args = [], understudy = {}) {
  const settings = Object.entries(understudy).map(([name, value]) => [`UNDERSTUDY_${name}`, String(value)])
  const child = spawn(process.execPath, [...FLAGS, MAIN, '--understudy', '--port', '0', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NODE_OPTIONS: '', ...Object.fromEntries(settings) },
  })
  const closed = once(child, 'close')
  t.after(async () => {
    child.kill('SIGKILL')
    await closed
  })
  let [log, url] = ['', undefined]
  const listening = new Promise((resolve) => {
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        log += `${line}\n`
        url ??= /^listening on (\S+)/.exec(line)?.[1]
        if (url !== undefined) resolve()
      })
    }
  })
  await Promise.race([listening, closed])
  // A server that hangs fails its test.
  const ask = (path) => fetch(url + path, { signal: AbortSignal.timeout(PATIENCE_MS) })
  return {
    url,
    pid: child.pid,
    log: () => log,
    /** The official client, which does not try again unless it is told to. */
    client: (apiKey = 'none', options) => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, ...options }),
    post: (path, body, headers = {}) =>
      fetch(url + path, { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body), headers }),
    health: async () => (await ask('/healthz')).json(),
    /** The value of a metric's sample, by the name with its labels. */
    async metric(sample) {
      const text = await (await ask('/metrics')).text()
      const line = text.split('\n').find((one) => one.startsWith(`${sample} `))
      return line && Number(line.split(' ').at(-1))
    },
    // Deno's own kill() reports the signal as the cause of the end, whatever the status is.
    signal: (name) => process.kill(child.pid, name),
    /** Resolves with the exit status, and the figures of the last line. */
    async ended() {
      const [status, signal] = await closed
      const last = log.split('\n').findLast((line) => line.startsWith('{"left"'))
      return { status: signal ?? status, ...(last && JSON.parse(last)) }
    },
  }
}

/** Ends the server as a supervisor does, and checks that nothing is left. */
export async function end(server) {
  server.signal('SIGTERM')
  const { status, left } = await server.ended()
  assert.deepEqual({ status, left }, { status: 0, left: NOTHING }, server.log())
}

/** The fields of the error of a request that is refused. */
export async function rejected(promise) {
  const error = await promise.then(() => assert.fail('it was accepted'), (reason) => reason)
  const { status, code, param, type, message, headers } = error
  return { status, code, param, type, message, name: error.constructor.name, retryAfter: headers?.get('retry-after') }
}

/** A file that holds the runs of an understudy, from `on` to `off`: tests need no timing. */
export function makeHold(folder) {
  const file = join(folder, 'hold')
  return { settings: { HOLD: file }, on: () => writeFileSync(file, ''), off: () => rmSync(file, { force: true }) }
}

/** Polls until `condition` holds; fails after five minutes. */
export const until = (condition, what) => poll(condition, () => `${what} has not come`, PATIENCE_MS)
