/** examples/server with several models: loads on demand, room for one, waits, failed loads, crashes, shutdown. */

import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

import { MiB } from '../../support/helpers.mjs'
import {
  end, HELLO, makeHold, NOTHING, rejected, skip, startServer, until,
} from '../../support/server-if-possible.mjs'

const folder = mkdtempSync(join(tmpdir(), 'server-models-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const hold = makeHold?.(folder)

/** Two models, and RAM for one. */
const TWO = ['--model', 'a', '--model', 'b', '--ram', String(64 * MiB), '--models-ram', String(100 * MiB)]
const to = (model) => ({ ...HELLO, model })

/** Processes of models that a server has. */
function enginesOf({ pid }) {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).filter((one) => {
    try {
      const [, state, parent] = /\) (\S) (\d+)/.exec(readFileSync(`/proc/${one}/stat`, 'utf8'))
      const command = readFileSync(`/proc/${one}/cmdline`, 'utf8')
      return state !== 'Z' && Number(parent) === pid && command.includes('engine.mjs')
    } catch {
      return false
    }
  }).map(Number)
}

const statesOf = async (server) => {
  const { data } = await server.client().models.list()
  return Object.fromEntries(data.map(({ id, state }) => [id, state]))
}

test('models are loaded on demand, and evicted for each other', { skip }, async (t) => {
  const server = await startServer(t, TWO)
  const { chat, embeddings, models } = server.client()
  // The first is loaded at the start.
  assert.deepEqual(await statesOf(server), { a: 'ready', b: 'cold' })
  const texts = []
  for (const model of ['a', 'b', 'b']) {
    const { choices, model: served } = await chat.completions.create(to(model))
    assert.equal(served, model)
    texts.push(choices[0].message.content)
    assert.equal(enginesOf(server).length, 1)
    assert.deepEqual(await statesOf(server), { a: 'cold', b: 'cold', [model]: 'ready' })
  }
  assert.equal(new Set(texts).size, 1)
  const { data: [{ embedding }], model } = await embeddings.create({ model: 'b', input: 'Hello' })
  assert.deepEqual([embedding.length, model], [64, 'b'])
  const { bytes, running, load_ms: loadMs } = await models.retrieve('b')
  assert.ok(bytes > 0 && running === 0 && loadMs > 0)
  assert.deepEqual((await server.health()).models, { a: 'cold', b: 'ready' })
  assert.match((await rejected(chat.completions.create(to('c')))).message, /no model "c"; this server has "a", "b"/)
  // Requests for both, at once and in turn.
  const asked = ['a', 'b'].map((name) => chat.completions.create(to(name)))
  for (const { choices } of await Promise.all(asked)) assert.equal(choices[0].message.content, texts[0])
  await end(server)
})

test('a request whose model gets no room in time is 503 with Retry-After', { skip }, async (t) => {
  const server = await startServer(t, [...TWO, '--wait-seconds', '1'], hold.settings)
  const { chat } = server.client()
  hold.on()
  const client = new AbortController()
  const gone = assert.rejects(chat.completions.create(to('a'), { signal: client.signal }), /aborted/)
  await until(async () => (await server.health()).running === 1, 'the run')
  const { status, code, message, retryAfter } = await rejected(chat.completions.create(to('b')))
  assert.deepEqual([status, code], [503, 'model_busy'])
  assert.match(message, /"b" waited for memory for 1000 ms: it may need 64(\.0)? MiB of RAM, and .* are free/)
  assert.match(retryAfter, /^[1-9]\d*$/)
  // The client that has the other model goes away: its lease ends, and the next request is served.
  client.abort()
  await gone
  await until(async () => (await server.health()).running === 0, 'the end of the lease')
  hold.off()
  assert.equal((await chat.completions.create(to('a'))).choices[0].finish_reason, 'stop')
  await end(server)
})

test('a model that fails to load, or can never fit, refuses its own requests only', { skip }, async (t) => {
  const args = ['--model', 'a', '--context', '64', '--model', 'b', '--context', 'b=65536', '--model', 'c']
  const large = String(2 ** 50)
  const server = await startServer(t, [...args, '--ram', `c=${large}`], { DOMAIN_BYTES: 20 * MiB })
  const { chat } = server.client()
  const failed = await rejected(chat.completions.create(to('b')))
  assert.deepEqual([failed.status, failed.code], [503, 'model_unavailable'])
  assert.match(failed.message, /"b" was not loaded: .*no memory/)
  assert.match(failed.retryAfter, /^[1-9]\d*$/)
  assert.equal((await statesOf(server)).b, 'failed')
  // To wait does not help: no Retry-After.
  const { status, code, message, retryAfter } = await rejected(chat.completions.create(to('c')))
  assert.deepEqual([status, code, retryAfter], [503, 'model_unavailable', null])
  assert.match(message, /"c" may need .* of RAM, and models may take/)
  assert.equal((await chat.completions.create({ ...to('a'), max_tokens: 3 })).choices[0].finish_reason, 'length')
  await end(server)
})

test('a process that ends under a run is 502; those that wait are served by the next', { skip }, async (t) => {
  const server = await startServer(t, [], hold.settings)
  const { chat } = server.client()
  hold.on()
  const running = rejected(chat.completions.create(HELLO))
  await until(async () => (await server.health()).running === 1, 'the run')
  const waiting = chat.completions.create(HELLO)
  await until(async () => (await server.health()).waiting === 1, 'the wait')
  for (const pid of enginesOf(server)) process.kill(pid, 'SIGKILL')
  const { status, code, retryAfter } = await running
  assert.deepEqual([status, code], [502, 'model_lost'])
  assert.match(retryAfter, /^[1-9]\d*$/)
  hold.off()
  assert.equal((await waiting).choices[0].finish_reason, 'stop')
  await end(server)
})

test('a run that hangs ends its process, and the next request is served', { skip }, async (t) => {
  const server = await startServer(t, ['--stall-seconds', '2'], { HANG_AT: 8 })
  const { completions } = server.client()
  const ask = (tokens) => completions.create({ model: 'understudy', prompt: 'Hello', max_tokens: tokens })
  const { status, code } = await rejected(ask(64))
  assert.deepEqual([status, code], [502, 'model_lost'])
  assert.equal((await ask(5)).choices[0].text.length, 5)
  await end(server)
})

test('SIGTERM unloads every model: no process is left', { skip }, async (t) => {
  const server = await startServer(t, ['--model', 'a', '--model', 'b'])
  await Promise.all(['a', 'b'].map((model) => server.client().chat.completions.create(to(model))))
  const engines = enginesOf(server)
  assert.equal(engines.length, 2)
  server.signal('SIGTERM')
  const { status, left } = await server.ended()
  assert.deepEqual({ status, left }, { status: 0, left: NOTHING }, server.log())
  const isGone = (pid) => readdirSync('/proc').every((name) => name !== String(pid))
  await until(() => engines.every(isGone), 'the processes of the models')
})
