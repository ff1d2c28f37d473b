/** Results of the RKLLM runtime, which native callbacks take on the runtime's thread. */

import assert from 'node:assert/strict'
import { test as runTest } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'

import { needsUnderstudy } from '../../runtime/build.mjs'
import { noFfi } from '../../support/ffi.mjs'
import {
  assertNothingLeft, inPieces, needsSimulated, open, refuses, rejects, runChild,
} from '../../support/helpers.mjs'
import { loadResultThread } from '../../support/result-thread.mjs'

/** In an emulated machine each piece has a share of the tests. */
const test = inPieces(runTest)
const HEADERS = ['1.1', '1.2.0', '1.2', '1.3']
const SPEC = { contextLength: 32, hiddenSize: 8, vocabSize: 10, logits: { tokens: 2 }, hiddenStates: { tokens: 4 } }
const skip = needsUnderstudy() || noFfi
const thread = skip ? undefined : await loadResultThread()

const answering = (header) => header === '1.2' || header === '1.3'
const begin = (session, options) =>
  thread.start(session.callbacks(), { answers: answering(session.header), ...options })

async function ended() {
  while (thread.running() > 0) await turn()
}

async function all(results) {
  const found = []
  for await (const result of results) found.push(result)
  return found
}

for (const header of HEADERS) {
  test(`${header}: each result once, in order, from a foreign thread`, { skip }, async (t) => {
    const manager = open(t)
    const session = manager.createInferenceBuffers({ ...SPEC, header })
    const { result, userdata, struct } = session.callbacks()
    assert.ok(result > 0n && userdata > 0n)
    assert.equal(typeof struct === 'bigint', header === '1.3')
    for (let round = 0; round < 3; round++) {
      const reading = all(session.results())
      begin(session, { first: 100 * round, tokens: 5000 })
      const found = await reading
      assert.equal(found.length, 5001)
      const last = found.pop()
      assert.deepEqual(
        found.map(({ tokenId, text, state, rows, perf }) => [tokenId, text, state, rows, perf]),
        Array.from({ length: 5000 }, (_, at) => [100 * round + at, `${100 * round + at} `, 'normal', 0, null]),
      )
      const perf = { prefillMs: 1.5, prefillTokens: 7, generateMs: 2.5, generateTokens: 5000, peakResidentMB: 640 }
      assert.deepEqual(last, { state: 'finish', text: '', tokenId: -1, rows: 0, perf: answering(header) ? perf : null })
    }
    await ended()
    session.dispose()
    assertNothingLeft(manager)
  })

  test(`${header}: text that is split inside characters`, { skip }, async (t) => {
    const manager = open(t)
    const session = manager.createInferenceBuffers({ ...SPEC, header })
    const text = 'a é 漢字 😀 z'
    const place = manager.createInferenceBuffers({ maxTokens: 8, hiddenSize: 8 })
    const bytes = new TextEncoder().encode(`${text}\0`)
    new Uint8Array(place.embeddings.buffer, place.embeddings.byteOffset).set(bytes)
    begin(session, { text: place.addresses.embeddings })
    const found = await all(session.results())
    assert.equal(found.map((result) => result.text).join(''), text)
    assert.equal(found.filter(({ state }) => state === 'waiting').length, 1 + 2 * 2 + 3)
    assert.ok(found.every(({ state, text: piece }) => state !== 'waiting' || piece === ''))
    await ended()
    session.dispose()
    place.dispose()
  })

  test(`${header}: hidden states and logits in the session's arrays`, { skip }, async (t) => {
    const manager = open(t)
    const session = manager.createInferenceBuffers({ ...SPEC, header })
    const logits = header !== '1.1'
    const before = thread.answersOf(2)
    begin(session, { tokens: 3, hidden: [4, 8], logits: logits ? [2, 10] : undefined })
    let at = 0
    for await (const { rows, state } of session.results()) {
      if (state === 'finish') break
      assert.equal(rows, 4)
      assert.deepEqual([...session.hiddenStates], Array.from({ length: 32 }, (_, index) => at + index))
      if (logits) assert.deepEqual([...session.logits], Array.from({ length: 20 }, (_, index) => 1000 + at + index))
      at++
    }
    assert.equal(at, 3)
    await ended()
    if (answering(header)) assert.equal(thread.answersOf(2) - before, 3)
    session.dispose()
  })

  test(`${header}: rows that do not fit end the run with an error`, { skip }, async (t) => {
    const manager = open(t)
    const session = manager.createInferenceBuffers({ ...SPEC, header })
    for (const hidden of [[5, 8], [1, 9], [4, 7]]) {
      begin(session, { tokens: 3, hidden })
      await rejects(all(session.results()), 'ERR_OUT_OF_RANGE')
      await ended()
      assert.ok(session.hiddenStates.every((value) => value === 0))
    }
    begin(session, { tokens: 1 })
    assert.equal((await all(session.results())).length, 2)
    session.dispose()
  })

  test(`${header}: a slow reader of a small ring loses nothing`, { skip }, async (t) => {
    const manager = open(t)
    const session = manager.createInferenceBuffers({ ...SPEC, header })
    session.callbacks({ ringBytes: 1024 })
    const results = session.results()
    begin(session, { tokens: 500 })
    for (let at = 0; at < 20; at++) await turn()
    let next = 0
    for await (const { tokenId, state } of results) {
      if (state === 'finish') break
      assert.equal(tokenId, next++)
      if (next % 50 === 0) await turn()
    }
    assert.equal(next, 500)
    await ended()
    session.dispose()
  })
}

test('a run that may pause answers 1 near the end of the ring, and goes on when it was read', { skip }, async (t) => {
  const session = open(t).createInferenceBuffers(SPEC)
  session.callbacks({ ringBytes: 1024 })
  const before = thread.answersOf(1)
  let pauses = 0
  const resume = () => {
    pauses++
    begin(session, { first: thread.pausedAt(), tokens: 200 - thread.pausedAt() })
  }
  const results = session.results({ resume })
  begin(session, { tokens: 200 })
  await ended()
  const found = await all(results)
  assert.deepEqual(
    found.map(({ tokenId }) => tokenId),
    [...Array.from({ length: 200 }, (_, at) => at), -1],
  )
  assert.ok(pauses > 1)
  assert.equal(thread.answersOf(1) - before, pauses)
  session.dispose()
})

test('a run on the event loop cannot wait: it ends with an error when the ring is full', { skip }, async (t) => {
  const session = open(t).createInferenceBuffers(SPEC)
  session.callbacks({ ringBytes: 1024 })
  begin(session, { tokens: 10, here: true })
  assert.equal((await all(session.results())).length, 11, 'results wait for their reader')
  const results = session.results()
  begin(session, { tokens: 500, here: true })
  await rejects(all(results), 'ERR_BUFFER_BUSY')
  begin(session, { tokens: 1, here: true })
  assert.equal((await all(session.results())).length, 2, 'the next run is not affected')
  begin(session, { tokens: 500 })
  for (let at = 0; at < 20; at++) await turn()
  assert.equal((await all(session.results())).length, 501, 'another thread waits for a reader')
  await ended()
  session.dispose()
})

test('an error of the runtime comes after the results before it', { skip }, async (t) => {
  const session = open(t).createInferenceBuffers(SPEC)
  begin(session, { tokens: 3, end: 3 })
  await ended()
  const results = session.results()
  for (let at = 0; at < 3; at++) assert.equal((await results.next()).value.tokenId, at)
  await rejects(results.next(), 'ERR_DEVICE_IO')
  assert.deepEqual(await results.next(), { value: undefined, done: true })
  session.dispose()
})

test('text that is not UTF-8 is replaced, and text beyond the ring is refused', { skip }, async (t) => {
  const manager = open(t)
  const session = manager.createInferenceBuffers(SPEC)
  const place = manager.createInferenceBuffers({ maxTokens: 8, hiddenSize: 8 })
  const bytes = [0x61, 0xff, 0x62, 0xe6, 0xbc]
  new Uint8Array(place.embeddings.buffer).set([...bytes, 0])
  begin(session, { text: place.addresses.embeddings })
  const found = await all(session.results())
  assert.equal(found.map(({ text }) => text).join(''), new TextDecoder().decode(Uint8Array.from(bytes)))
  session.dispose()
  place.dispose()
})

test('results asked for twice are refused; a signal and an early end drop the rest of the run', { skip }, async (t) => {
  const session = open(t).createInferenceBuffers(SPEC)
  session.callbacks({ ringBytes: 1024 })
  const first = session.results()
  refuses(() => session.results(), 'ERR_BUFFER_BUSY')
  begin(session, { tokens: 1000 })
  await first.next()
  await first.return()
  assert.equal((await first.next()).done, true)
  await ended()
  const stop = new AbortController()
  const second = session.results({ signal: stop.signal })
  begin(session, { tokens: 1000 })
  assert.equal((await second.next()).value.tokenId, 0)
  stop.abort(new Error('enough'))
  await assert.rejects(second.next(), /enough/)
  assert.equal((await second.next()).done, true, 'an abort is told once')
  await ended()
  const third = session.results()
  const waiting = third.next()
  await third.return()
  assert.equal((await waiting).done, true, 'a pending next() ends too')
  begin(session, { first: 7, tokens: 1 })
  const late = new AbortController()
  const last = session.results({ signal: late.signal })
  const found = await all(last)
  assert.deepEqual(found.map(({ tokenId }) => tokenId), [7, -1])
  late.abort()
  assert.equal((await last.next()).done, true, 'an abort after the end changes nothing')
  await ended()
  session.dispose()
})

test('dispose is refused during a run; a callback after the end does nothing', { skip }, async (t) => {
  const manager = open(t)
  const session = manager.createInferenceBuffers(SPEC)
  const callbacks = session.callbacks()
  const run = (options) => thread.start(callbacks, options)
  run({ tokens: 3, end: -1, here: true })
  refuses(() => session.dispose(), 'ERR_BUFFER_BUSY')
  run({ tokens: 1, here: true })
  assert.equal((await all(session.results())).length, 5)
  run({ tokens: 3, end: -1, here: true })
  const results = session.results()
  session.releaseCallbacks()
  await rejects(results.next(), 'ERR_BUFFER_FREED')
  run({ tokens: 3, hidden: [4, 8], here: true })
  assert.ok(session.hiddenStates.every((value) => value === 0))
  const others = session.callbacks()
  assert.notEqual(others.userdata, callbacks.userdata)
  session.dispose()
  run({ tokens: 3, hidden: [4, 8], here: true })
  thread.start(others, { tokens: 3, hidden: [4, 8], here: true })
  thread.start({ ...others, userdata: 12345678901234n }, { tokens: 3, here: true })
  refuses(() => session.callbacks(), 'ERR_BUFFER_FREED')
  refuses(() => session.results(), 'ERR_BUFFER_FREED')
  assertNothingLeft(manager)
})

test('memory that the runtime uses is pinned, and its loss ends the run', { skip }, async (t) => {
  const manager = open(t)
  const session = manager.createInferenceBuffers({ ...SPEC, name: 'pinned' })
  const callbacks = session.callbacks()
  thread.start(callbacks, { tokens: 1, end: -1, hidden: [4, 8], here: true })
  refuses(() => manager.deallocate(session.hiddenStates), 'ERR_BUFFER_BUSY')
  manager.getMemoryPool('pinned').reset()
  const others = manager.allocateFromPool('pinned', 4096, { zeroed: true })
  thread.start(callbacks, { tokens: 1, hidden: [4, 8], here: true })
  assert.ok(new Uint8Array(others).every((byte) => byte === 0))
})

test('rows that came with the end of a run are not overwritten by the next run', { skip }, async (t) => {
  const session = open(t).createInferenceBuffers(SPEC)
  const hidden = [4, 8]
  const ways = [(results) => results.next(), (results) => results.return(), () => {}]
  for (const letGo of ways) {
    const results = session.results()
    begin(session, { tokens: 0, hidden, first: 100, endRows: true })
    const { value } = await results.next()
    assert.deepEqual([value.state, value.rows], ['finish', 4])
    await ended()
    const kept = [...session.hiddenStates]
    assert.equal(kept[1], 101)
    begin(session, { tokens: 1, hidden, first: 500, endRows: true })
    for (let at = 0; at < 20; at++) await turn()
    assert.deepEqual([...session.hiddenStates], kept)
    assert.equal(thread.running(), 1)
    await letGo(results)
    const rows = []
    for await (const result of session.results()) rows.push([result.rows, session.hiddenStates[0]])
    assert.deepEqual(rows, [[4, 0], [4, 500]])
    await ended()
  }
  const stale = session.results()
  begin(session, { tokens: 0, hidden, endRows: true })
  await stale.next()
  await ended()
  const later = session.results()
  begin(session, { tokens: 2, hidden })
  await later.next()
  await stale.return()
  for (let at = 0; at < 20; at++) await turn()
  assert.equal(session.hiddenStates[0], 0, 'an iterator of an earlier run lets no rows of this one go')
  await later.return()
  await ended()
  session.dispose()
})

test('an array that the program frees by hand hinders no run that does not need it', { skip }, async (t) => {
  const manager = open(t)
  const session = manager.createInferenceBuffers(SPEC)
  session.callbacks()
  begin(session, { tokens: 2 })
  assert.equal((await all(session.results())).length, 3)
  manager.deallocate(session.embeddings)
  manager.deallocate(session.hiddenStates)
  for (const logits of [[0, 0], [2, 10]]) {
    begin(session, { tokens: 2, logits })
    const found = await all(session.results())
    assert.deepEqual(found.map(({ rows }) => rows), [logits[0], logits[0], 0])
  }
  begin(session, { tokens: 2, hidden: [4, 8] })
  assert.match((await rejects(all(session.results()), 'ERR_BUFFER_FREED')).message, /hiddenStates/)
  await ended()
  begin(session, { tokens: 2, end: -1, here: true })
  refuses(() => manager.deallocate(session.tokens), 'ERR_BUFFER_BUSY')
  begin(session, { tokens: 0, here: true })
  session.dispose()
  assertNothingLeft(manager)
})

test('results of no run keep a session until it is released, and the refusal says so', { skip }, (t) => {
  const manager = open(t)
  const session = manager.createInferenceBuffers(SPEC)
  session.results().return()
  assert.match(refuses(() => session.dispose(), 'ERR_BUFFER_BUSY').hint, /releaseCallbacks\(\).*if no run was started/)
  session.releaseCallbacks()
  session.dispose()
  assertNothingLeft(manager)
})

test('a run that begins while the session ends is seen, or writes nothing', { skip }, async (t) => {
  const manager = open(t)
  let [seen, over] = [0, 0]
  for (let round = 0; round < 300; round++) {
    const session = manager.createInferenceBuffers(SPEC)
    begin(session, { tokens: 1, hidden: [4, 8] })
    for (let at = round % 4; at > 0; at--) await turn()
    try {
      session.dispose()
      over++
    } catch (error) {
      assert.equal(error.code, 'ERR_BUFFER_BUSY')
      seen++
      assert.equal((await all(session.results())).at(-1).state, 'finish')
      session.dispose()
    }
    await ended()
  }
  assert.equal(seen + over, 300)
  assertNothingLeft(manager)
})

test('bad input is refused with what was wanted', { skip }, (t) => {
  const manager = open(t)
  const session = manager.createInferenceBuffers({ ...SPEC, header: '1.2.0' })
  for (const ringBytes of [0, 1023, 2 ** 31, 1.5]) refuses(() => session.callbacks({ ringBytes }), 'ERR_OUT_OF_RANGE')
  refuses(() => session.callbacks({ ringBytes: '1' }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => session.callbacks({ ringbytes: 4096 }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => session.callbacks({ tokenizer: 1n }), 'ERR_UNSUPPORTED')
  refuses(() => session.results({ resume: () => {} }), 'ERR_UNSUPPORTED')
  refuses(() => session.results({ signal: 1 }), 'ERR_INVALID_ARG_TYPE')
  session.callbacks()
  refuses(() => session.callbacks({ ringBytes: 4096 }), 'ERR_BUFFER_BUSY')
  session.dispose()
  const newest = manager.createInferenceBuffers(SPEC)
  refuses(() => newest.callbacks({ tokenizer: -1n }), 'ERR_OUT_OF_RANGE')
  refuses(() => newest.callbacks({ tokenizer: 1 }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => newest.results({ resume: 1 }), 'ERR_INVALID_ARG_TYPE')
  newest.dispose()
})

test('workers are terminated while the runtime calls back: no crash, nothing lost or doubled', { skip }, () => {
  // An emulated machine takes a minute for a tenth of it.
  const callbacks = needsSimulated ? 6000 : 60_000
  const { result } = runChild('stress-results.mjs', { args: [String(callbacks), '1', thread.path] })
  assert.ok(result.tokens >= callbacks && result.terminated > 0)
})

test('the process ends in the middle of runs, by process.exit and by itself', { skip }, () => {
  for (const how of ['--exit', '--natural']) {
    const { result } = runChild('exit-during-run.mjs', { args: [thread.path, how] })
    assert.deepEqual(result, { running: true }, how)
  }
})
