/** examples/server with the official client of OpenAI's API: answers, cancellation, limits, faults, shutdown. */

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

import { StopFilter } from '../../../examples/server/stop-filter.mjs'
import {
  end, HELLO, makeHold, NOTHING, rejected, skip, startServer, until,
} from '../../support/server-if-possible.mjs'

const folder = mkdtempSync(join(tmpdir(), 'server-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const hold = makeHold?.(folder)

async function collect(stream) {
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)
  const text = chunks.map(({ choices: [choice] }) => choice?.delta?.content ?? choice?.text ?? '').join('')
  return { chunks, text, reason: chunks.findLast(({ choices }) => choices.length > 0).choices[0].finish_reason }
}

test('completions: whole and streamed, of messages, text and tokens', { skip }, async (t) => {
  const server = await startServer(t)
  assert.match(server.log(), /No model: the understudy/)
  const { chat, completions, models } = server.client()

  const { choices: [{ message, finish_reason: reason }], usage, id, object } = await chat.completions.create(HELLO)
  assert.match(id, /^chatcmpl-/)
  assert.equal(object, 'chat.completion')
  assert.equal(reason, 'stop')
  assert.ok(message.content.length >= 4)
  assert.equal(message.role, 'assistant')
  assert.equal(usage.prompt_tokens, '<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n'.length)
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)

  const streamed = await collect(
    await chat.completions.create({ ...HELLO, stream: true, stream_options: { include_usage: true } }),
  )
  assert.equal(streamed.text, message.content)
  assert.equal(streamed.reason, 'stop')
  assert.deepEqual(streamed.chunks.at(-1).usage, usage)
  assert.equal(streamed.chunks[0].choices[0].delta.role, 'assistant')

  const parts = [{ type: 'text', text: 'Hel' }, { type: 'text', text: 'lo' }]
  const same = await chat.completions.create({ ...HELLO, messages: [{ role: 'user', content: parts }] })
  assert.equal(same.choices[0].message.content, message.content)
  const turns = [{ role: 'system', content: 'Be brief.' }, ...HELLO.messages]
  assert.notEqual(
    (await chat.completions.create({ ...HELLO, messages: turns })).choices[0].message.content,
    message.content,
  )

  const ofText = await completions.create({ model: 'understudy', prompt: 'Größe', max_tokens: 9 })
  assert.equal(ofText.choices[0].finish_reason, 'length')
  assert.equal(ofText.usage.completion_tokens, 9)
  const tokens = [...new TextEncoder().encode('Größe')]
  const ofTokens = await collect(
    await completions.create({ model: 'understudy', prompt: tokens, max_tokens: 9, stream: true }),
  )
  assert.equal(ofTokens.text, ofText.choices[0].text)
  assert.equal(ofTokens.reason, 'length')

  const { data } = await models.list()
  assert.deepEqual(data.map((model) => model.id), ['understudy'])
  assert.equal((await models.retrieve('understudy')).object, 'model')
  assert.equal((await rejected(models.retrieve('other'))).code, 'model_not_found')
  await end(server)
})

test('a reply ends before its stop text, whole and streamed', { skip }, async (t) => {
  const server = await startServer(t)
  const { chat } = server.client()
  const { choices: [{ message: { content } }] } = await chat.completions.create(HELLO)
  const stop = content.slice(3, 6)
  const expected = content.slice(0, content.indexOf(stop))
  const short = await chat.completions.create({ ...HELLO, stop: ['never there', stop] })
  assert.equal(short.choices[0].message.content, expected)
  assert.equal(short.choices[0].finish_reason, 'stop')
  assert.equal((await collect(await chat.completions.create({ ...HELLO, stop, stream: true }))).text, expected)
  // The run that was ended early leaves nothing in the next.
  assert.equal((await chat.completions.create(HELLO)).choices[0].message.content, content)
  await end(server)
})

test('a stop text is found in pieces of any size, and nothing else is held back for good', () => {
  const text = 'aabaabaaab, aabab.'
  for (const stops of [[], ['aaab'], ['abab', 'b,'], ['zz'], ['aabab.'], ['a']]) {
    const ends = stops.map((stop) => text.indexOf(stop)).filter((at) => at !== -1)
    const expected = ends.length === 0 ? text : text.slice(0, Math.min(...ends))
    for (let size = 1; size <= text.length; size++) {
      const filter = new StopFilter(stops)
      let [found, stopped] = ['', false]
      for (let at = 0; at < text.length && !stopped; at += size) {
        const piece = filter.push(text.slice(at, at + size))
        found += piece.text
        stopped = piece.stopped
      }
      assert.equal(found + (stopped ? '' : filter.rest()), expected, `${stops} by ${size}`)
      assert.equal(stopped, ends.length > 0)
    }
  }
})

for (const pooling of ['mean', 'last']) {
  test(`embeddings: the ${pooling} of the hidden states, with length 1`, { skip }, async (t) => {
    const server = await startServer(t, ['--pooling', pooling])
    const { embeddings } = server.client()
    const input = ['Hello', 'x']
    const { data, usage } = await embeddings.create({ model: 'understudy', input })
    assert.equal(usage.prompt_tokens, 6)
    for (const [at, { embedding, index }] of data.entries()) {
      assert.equal(index, at)
      // A row of the understudy is token + 1000 * row + column / 8192.
      const rows = [...new TextEncoder().encode(input[at])].map((token, row) => token + 1000 * row)
      const base = pooling === 'last' ? rows.at(-1) : rows.reduce((sum, row) => sum + row) / rows.length
      const vector = Array.from({ length: 64 }, (_, column) => base + column / 8192)
      const length = Math.hypot(...vector)
      assert.equal(embedding.length, 64)
      for (const [column, value] of embedding.entries())
        assert.ok(Math.abs(value - vector[column] / length) < 1e-6, `${pooling} ${at}.${column}: ${value}`)
    }
    // The client asks for base64 by itself.
    const floats = await embeddings.create({ model: 'understudy', input: 'x', encoding_format: 'float' })
    assert.deepEqual(floats.data[0].embedding, data[1].embedding)
    const tokens = await embeddings.create({ model: 'understudy', input: [[120], [72, 101, 108, 108, 111]] })
    assert.deepEqual(tokens.data.map(({ embedding }) => embedding), [data[1].embedding, data[0].embedding])
    await end(server)
  })
}

test('a client that goes away ends its run or its wait, and its memory comes back', { skip }, async (t) => {
  const server = await startServer(t, [], { ...hold.settings, MS_PER_TOKEN: 5 })
  const { chat } = server.client()
  const used = () => server.metric('rkllm_memory_used_bytes{kind="system"}')
  const [before, answer] = [await used(), await chat.completions.create(HELLO)]
  const idle = async () => {
    const { running, waiting } = await server.health()
    return !running && waiting === 0 && (await used()) === before
  }

  // In the middle of its stream, by the client's own abort.
  const stream = await chat.completions.create({ ...HELLO, stream: true })
  for await (const { choices: [{ delta }] } of stream) {
    if (!delta.content) continue
    hold.on() // the run cannot end by itself any more
    stream.controller.abort()
  }
  await until(idle, 'the aborted stream')

  // Before the answer to a request that is not streamed; another one waits behind it.
  const [first, second] = [new AbortController(), new AbortController()]
  const running = chat.completions.create(HELLO, { signal: first.signal })
  await until(async () => (await server.health()).running, 'the run')
  const waiting = chat.completions.create(HELLO, { signal: second.signal })
  await until(async () => (await server.health()).waiting === 1, 'the wait')
  second.abort()
  await assert.rejects(waiting, { name: 'Error', message: /aborted/ })
  await until(async () => (await server.health()).waiting === 0, 'the end of the wait')
  assert.equal((await server.health()).running, 1)
  first.abort()
  await assert.rejects(running, /aborted/)
  await until(idle, 'the aborted request')
  hold.off()

  const again = await chat.completions.create(HELLO)
  assert.equal(again.choices[0].message.content, answer.choices[0].message.content)
  await end(server)
})

test('bad requests are named in the shape of OpenAI', { skip }, async (t) => {
  const server = await startServer(t, ['--max-body', '65536', '--context', '1024'])
  const talk = (more) => ['/v1/chat/completions', { ...HELLO, ...more }]
  const say = (content) => talk({ messages: [{ role: 'user', content }] })
  const text = (more) => ['/v1/completions', { model: 'understudy', prompt: 'x', ...more }]
  const vector = (more) => ['/v1/embeddings', { model: 'understudy', input: 'x', ...more }]
  const cases = [
    [talk({ messages: undefined }), 400, 'messages', 'invalid_value'],
    [talk({ messages: [] }), 400, 'messages', 'invalid_value'],
    [talk({ messages: [{ role: 'wizard', content: 'x' }] }), 400, 'messages[0].role', 'invalid_value'],
    [talk({ messages: [null] }), 400, 'messages[0].role', 'invalid_value'],
    [say(7), 400, 'messages[0].content', 'invalid_value'],
    [say([{ type: 'image_url', image_url: { url: 'x' } }]), 400, 'messages[0].content', 'invalid_value'],
    [say('a<|im_end|>b'), 400, 'messages[0].content', 'invalid_value'],
    [say('a\0b'), 400, 'messages', 'invalid_value'],
    [say('a\ud800b'), 400, 'messages', 'invalid_value'],
    [say('x'.repeat(9000)), 400, 'messages', 'context_length_exceeded'],
    [talk({ model: 'gpt' }), 404, 'model', 'model_not_found'],
    [talk({ temperatur: 1 }), 400, 'temperatur', 'unsupported_parameter'],
    [talk({ tools: [{}] }), 400, 'tools', 'unsupported_parameter'],
    [talk({ n: 2 }), 400, 'n', 'unsupported_parameter'],
    [talk({ seed: 1 }), 400, 'seed', 'unsupported_parameter'],
    [talk({ temperature: 3 }), 400, 'temperature', 'invalid_value'],
    [talk({ temperature: '1' }), 400, 'temperature', 'invalid_value'],
    [talk({ top_p: -1 }), 400, 'top_p', 'invalid_value'],
    [talk({ stream: 'yes' }), 400, 'stream', 'invalid_value'],
    [talk({ stop: ['a', 'b', 'c', 'd', 'e'] }), 400, 'stop', 'invalid_value'],
    [talk({ stop: '' }), 400, 'stop', 'invalid_value'],
    [talk({ max_tokens: 0 }), 400, 'max_tokens', 'invalid_value'],
    [talk({ max_completion_tokens: 1.5 }), 400, 'max_completion_tokens', 'invalid_value'],
    [talk({ max_tokens: 1025 }), 400, 'max_tokens', 'context_length_exceeded'],
    [text({ prompt: '' }), 400, 'prompt', 'invalid_value'],
    [text({ prompt: ['a', 'b'] }), 400, 'prompt', 'invalid_value'],
    [text({ prompt: [-1] }), 400, 'prompt', 'invalid_value'],
    [text({ prompt: Array(1025).fill(1) }), 400, 'prompt', 'context_length_exceeded'],
    [text({ messages: [] }), 400, 'messages', 'unsupported_parameter'],
    [vector({ input: undefined }), 400, 'input', 'invalid_value'],
    [vector({ input: [] }), 400, 'input', 'invalid_value'],
    [vector({ input: ['a', ''] }), 400, 'input', 'invalid_value'],
    [vector({ input: Array(2049).fill('a') }), 400, 'input', 'invalid_value'],
    [vector({ encoding_format: 'hex' }), 400, 'encoding_format', 'invalid_value'],
    [vector({ dimensions: 32 }), 400, 'dimensions', 'invalid_value'],
    [['/v1/embeddings', '{"input":'], 400, null, 'invalid_json'],
    [['/v1/embeddings', '[]'], 400, null, 'invalid_type'],
    [['/v1/embeddings', 'null'], 400, null, 'invalid_type'],
    [say('x'.repeat(66_000)), 413, null, 'request_too_large'],
    [['/v1/nothing', {}], 404, null, 'not_found'],
    [['/v1/models', {}], 405, null, 'method_not_allowed'],
  ]
  for (const [[path, body], status, param, code] of cases) {
    const response = await server.post(path, body)
    const { error } = await response.json()
    const what = `${path} ${JSON.stringify(body).slice(0, 80)}: ${JSON.stringify(error)}`
    assert.deepEqual({ status: response.status, ...error, message: '' }, {
      status, message: '', type: 'invalid_request_error', param, code,
    }, what)
    assert.ok(error.message.length > 10 && error.message.length < 250, what)
  }
  // A body of unknown length, which is too long.
  const long = new Blob(['x'.repeat(100_000)]).stream()
  const { status } = await fetch(`${server.url}/v1/completions`, { method: 'POST', body: long, duplex: 'half' })
  assert.equal(status, 413)
  assert.equal((await fetch(`${server.url}/v1/models/%ff`)).status, 404)
  const { chat } = server.client()
  assert.equal((await rejected(chat.completions.create({ ...HELLO, temperature: 9 }))).name, 'BadRequestError')
  assert.equal(await server.metric('rkllm_server_tokens_total{kind="generated"}'), undefined)
  await end(server)
})

test('tenants: a key, a tag and a limit each', { skip }, async (t) => {
  const tenants = join(folder, 'tenants.json')
  writeFileSync(tenants, JSON.stringify([
    { key: 'sk-small', tag: 'small', maxBytes: 12_288 },
    { key: 'sk-large', tag: 'large', admin: true },
  ]))
  const server = await startServer(t, ['--tenants', tenants], hold.settings)
  hold.on()
  const { status, code, type, name } = await rejected(server.client('sk-none').chat.completions.create(HELLO))
  assert.deepEqual([status, code], [401, 'invalid_api_key'])
  assert.deepEqual([type, name], ['authentication_error', 'AuthenticationError'])
  assert.equal((await fetch(`${server.url}/v1/models`)).status, 401)

  const [small, large] = [server.client('sk-small'), server.client('sk-large')]
  const request = { ...HELLO, max_tokens: 500 } // two pages
  const first = small.chat.completions.create(request)
  await until(async () => (await server.health()).running, 'the run')
  const refused = await server.post('/v1/chat/completions', request, { authorization: 'Bearer sk-small' })
  const { error } = await refused.json()
  assert.equal(refused.status, 429)
  assert.equal(error.code, 'memory_limit_exceeded')
  assert.match(error.message, /small/)
  assert.match(refused.headers.get('retry-after'), /^[1-9]\d*$/)
  assert.equal((await rejected(small.chat.completions.create(request))).name, 'RateLimitError')
  // A request that the limit can never hold is not worth a second try.
  const huge = await rejected(small.chat.completions.create({ ...HELLO, max_tokens: 4000 }))
  assert.deepEqual([huge.status, huge.code], [413, 'request_too_large'])
  const other = large.chat.completions.create(request)
  // A client that obeys Retry-After is served in the end.
  const patient = server.client('sk-small', { maxRetries: 10 }).chat.completions.create(request)
  const refusals = 'rkllm_server_requests_total{route="POST /v1/chat/completions",status="429"}'
  await until(async () => (await server.metric(refusals)) >= 3, 'the refusal of the patient client')
  hold.off()
  const texts = (await Promise.all([first, other, patient])).map(({ choices: [{ message }] }) => message.content)
  assert.equal(new Set(texts).size, 1)

  const report = (key) => fetch(`${server.url}/debug/memory.html`, { headers: { authorization: `Bearer ${key}` } })
  assert.equal((await report('sk-small')).status, 403)
  const page = await report('sk-large')
  assert.match(page.headers.get('content-type'), /text\/html/)
  assert.match(await page.text(), /understudy/)
  await end(server)
})

test('a full queue is 503 with Retry-After, and those in it are served', { skip }, async (t) => {
  const server = await startServer(t, ['--queue', '1'], hold.settings)
  hold.on()
  const { chat } = server.client()
  const running = chat.completions.create(HELLO)
  await until(async () => (await server.health()).running, 'the run')
  const waiting = chat.completions.create(HELLO)
  await until(async () => (await server.health()).waiting === 1, 'the wait')
  const refused = await server.post('/v1/chat/completions', HELLO)
  assert.equal(refused.status, 503)
  assert.match(refused.headers.get('retry-after'), /^[1-9]\d*$/)
  assert.equal((await refused.json()).error.code, 'overloaded')
  hold.off()
  await Promise.all([running, waiting])
  assert.equal(await server.metric('rkllm_server_requests_total{route="POST /v1/chat/completions",status="503"}'), 1)
  await end(server)
})

test('a full device is 503 with Retry-After', { skip }, async (t) => {
  const board = JSON.stringify({ domainBytes: 128 * 1024, domains: 1 })
  const server = await startServer(t, ['--memory', 'npu', '--simulated', board], hold.settings)
  hold.on()
  const ask = (tokens, prompt) => server.post('/v1/completions', { prompt, max_tokens: tokens })
  const running = ask(4096, 'x') // more than half of the domain
  await until(async () => (await server.health()).running, 'the run')
  const refused = await ask(4096, 'x')
  assert.equal(refused.status, 503)
  assert.equal((await refused.json()).error.code, 'overloaded')
  assert.match(refused.headers.get('retry-after'), /^[1-9]\d*$/)
  hold.off()
  assert.equal((await running).status, 200)
  // More than the device can ever hold.
  const { error } = await (await server.post('/v1/embeddings', { input: Array(600).fill('x') })).json()
  assert.equal(error.code, 'request_too_large')
  await end(server)
})

test('SIGTERM: running and waiting requests are answered, new ones refused, nothing is left', { skip }, async (t) => {
  const server = await startServer(t, [], hold.settings)
  const { chat } = server.client()
  hold.on()
  const streaming = chat.completions.create({ ...HELLO, stream: true })
  await until(async () => (await server.health()).running, 'the run')
  const waiting = chat.completions.create(HELLO)
  await until(async () => (await server.health()).waiting === 1, 'the wait')
  server.signal('SIGTERM')
  await until(() => /SIGTERM: 1 requests wait/.test(server.log()), 'the signal')
  const late = await chat.completions.create(HELLO).then(() => assert.fail('it was accepted'), (error) => error)
  assert.ok(late.status === 503 || late.name === 'APIConnectionError' || late.status === undefined, late)
  hold.off()
  const [{ text, reason }, whole] = await Promise.all([streaming.then(collect), waiting])
  assert.equal(reason, 'stop')
  assert.equal(whole.choices[0].message.content, text)
  const { status, left } = await server.ended()
  assert.deepEqual({ status, left }, { status: 0, left: NOTHING }, server.log())
})

test('SIGTERM: what takes too long is aborted, and nothing is left', { skip }, async (t) => {
  const server = await startServer(t, ['--drain-seconds', '0'], hold.settings)
  const { chat } = server.client()
  hold.on()
  const running = chat.completions.create(HELLO)
  await until(async () => (await server.health()).running, 'the run')
  const waiting = chat.completions.create({ ...HELLO, stream: true })
  await until(async () => (await server.health()).waiting === 1, 'the wait')
  server.signal('SIGTERM')
  for (const { status, code } of await Promise.all([running, waiting].map(rejected)))
    assert.deepEqual([status, code], [503, 'shutting_down'])
  hold.off()
  const { status, left } = await server.ended()
  assert.deepEqual({ status, left }, { status: 0, left: NOTHING }, server.log())
})

test('a run that fails is 500, and the next request is served', { skip }, async (t) => {
  const server = await startServer(t, ['--context', '64'])
  const { completions } = server.client()
  // The understudy has a token a byte, and a prompt beyond the context ends with an error.
  const prompt = 'x'.repeat(100)
  const { status, code, type } = await rejected(completions.create({ model: 'understudy', prompt, max_tokens: 5 }))
  assert.deepEqual([status, code, type], [500, 'server_error', 'server_error'])
  const { choices } = await completions.create({ model: 'understudy', prompt: 'x', max_tokens: 5 })
  assert.equal(choices[0].text.length, 5)
  await end(server)
})

test('a model that does not load, and wrong options: a message and a status', { skip }, async (t) => {
  const full = await startServer(t, [], { DOMAIN_BYTES: 4096 })
  assert.equal((await full.ended()).status, 1)
  assert.match(full.log(), /"understudy" was not loaded: .*no memory/)
  for (const [args, message] of [
    [['--port', 'x'], /--port must be a whole number/],
    [['--pooling', 'max'], /--pooling must be one of mean, last/],
    [['--model', 'a', '--model', 'a'], /two models have the same name: a, a/],
    [['--hidden', 'b=64'], /--hidden: there is no model "b"/],
    [['--context', 'understudy=0'], /--context must be a whole number from 1/],
    [['--context', 'understudy=64=9'], /--context must be a whole number.* not "64=9"/],
    [['--model', 'a=b'], /--model takes a name beside --understudy, not "a=b"/],
    [['--simulated', '{'], /--simulated is not JSON/],
    [['--qeue', '1'], /--qeue/],
  ]) {
    const wrong = await startServer(t, args)
    assert.equal((await wrong.ended()).status, 2, wrong.log())
    assert.match(wrong.log(), message)
  }
  writeFileSync(join(folder, 'wrong.json'), '[{"key":"a","tag":"b","maxByte":1}]')
  const wrong = await startServer(t, ['--tenants', join(folder, 'wrong.json')])
  assert.equal((await wrong.ended()).status, 1)
  assert.match(wrong.log(), /"maxByte"; the fields are key, tag, maxBytes, admin/)
})

for (const header of ['1.1', '1.2.0', '1.2']) {
  test(`rkllm.h ${header}: the server ends a reply itself; sampling by request is refused`, { skip }, async (t) => {
    const server = await startServer(t, ['--header', header])
    const { chat, embeddings } = server.client()
    const all = await chat.completions.create(HELLO)
    const short = await chat.completions.create({ ...HELLO, max_tokens: 3 })
    assert.equal(short.choices[0].finish_reason, 'length')
    assert.ok(all.choices[0].message.content.startsWith(short.choices[0].message.content))
    assert.ok([2, 3].includes(short.choices[0].message.content.length))
    assert.equal(all.usage === null, header !== '1.2')
    const { status, param, code } = await rejected(chat.completions.create({ ...HELLO, temperature: 0.5 }))
    assert.deepEqual([status, param, code], [400, 'temperature', 'unsupported_parameter'])
    assert.equal((await embeddings.create({ model: 'understudy', input: 'x' })).data[0].embedding.length, 64)
    await end(server)
  })
}
