/** The memory of an inference session: shapes, structs, reuse, and its end. examples/inference compares the C side. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { noFfi } from '../../support/ffi.mjs'
import { assertNothingLeft, needsCommand, needsTransfer, open, refuses, runtime } from '../../support/helpers.mjs'

const require = createRequire(import.meta.url)
const { collectGarbage } = require('../../../src/js/core/gc.js')
const { headers, rknn } = require('../../../src/js/inference/layouts.js')

const SPEC = {
  contextLength: 32,
  hiddenSize: 8,
  vocabSize: 100,
  image: { tokens: 4, count: 2, width: 28, height: 14 },
  crossAttention: { layers: 2, heads: 3, headDim: 4, tokens: 5 },
  hiddenStates: true,
  rknnInputs: [{ name: 'pixels', shape: [1, 4, 4, 3], dtype: 'uint8' }],
  rknnOutputs: [{ name: 'ids', shape: [3], dtype: 'int64' }],
}
const KINDS = ['npu', 'system']

for (const kind of KINDS) {
  test(`${kind}: the requested arrays, zeroed, at the addresses of describe(), from one pool`, (t) => {
    const manager = open(t)
    const buffers = manager.createInferenceBuffers({ ...SPEC, kind, name: 'session', tag: 'qwen' })
    const lengths = {
      tokens: 32, embeddings: 256, imageEmbeddings: 64, encoderKeys: 120, encoderValues: 120, encoderMask: 5,
      encoderPositions: 5, logits: 100, hiddenStates: 256,
    }
    for (const [name, length] of Object.entries(lengths)) {
      const array = buffers[name]
      assert.equal(array.length, length, name)
      assert.ok(array.every((value) => value === 0), name)
      const { address, pool, kind: of } = manager.describe(array)
      assert.deepEqual([address, pool, of], [buffers.addresses[name], 'session', kind], name)
      assert.equal(address % 64n, 0n, name)
      assert.equal(buffers.shapes[name].reduce((a, b) => a * b), length, name)
    }
    assert.ok(buffers.tokens instanceof Int32Array && buffers.encoderPositions instanceof Int32Array)
    assert.ok(buffers.inputs.pixels instanceof Uint8Array && buffers.outputs.ids instanceof BigInt64Array)
    assert.equal(manager.describe(buffers.outputs.ids).address, buffers.addresses.outputs.ids)
    assert.equal(buffers.back, null)
    const { requested, free } = manager.getMemoryPool('session').stats()
    assert.ok(requested <= buffers.bytes && free < 4096)
    assert.ok(manager.getMemoryUsage().tags.qwen.used >= buffers.bytes)
    buffers.syncToDevice()
    buffers.syncFromDevice('logits', 'outputs.ids')
    buffers.dispose()
    buffers.dispose()
    assertNothingLeft(manager)
    for (const use of [
      () => buffers.tokens, () => buffers.addresses, () => buffers.tokenInput(1), () => buffers.reset(),
      () => buffers.swap(), () => buffers.pin(),
    ]) {
      refuses(use, 'ERR_BUFFER_FREED')
    }
  })

  test(`${kind}: requests allocate nothing, reset clears the arrays, swap changes the sets`, (t) => {
    const manager = open(t)
    const buffers = manager.createInferenceBuffers({ ...SPEC, kind, doubleBuffered: true })
    const before = manager.getMemoryStats()
    const { back } = buffers
    const front = buffers.tokens
    back.tokens.fill(7)
    back.outputs.ids.fill(9n)
    buffers.swap()
    assert.equal(buffers.tokens, back.tokens)
    assert.equal(buffers.back.tokens, front)
    assert.equal(buffers.addresses, back.addresses)
    assert.equal(buffers.promptInput('a secret'), back.addresses.rkllmInput)
    for (const fill of ['embeddings', 'imageEmbeddings', 'encoderKeys', 'logits', 'hiddenStates']) buffers[fill].fill(1)
    buffers.reset({ tokens: 2 })
    assert.deepEqual([...buffers.tokens.subarray(0, 3)], [0, 0, 7])
    assert.ok(buffers.embeddings.subarray(0, 16).every((value) => value === 0) && buffers.embeddings[16] === 1)
    buffers.reset()
    for (const name of ['tokens', 'embeddings', 'imageEmbeddings', 'encoderKeys', 'logits', 'hiddenStates']) {
      assert.ok(buffers[name].every((value) => value === 0), name)
    }
    assert.deepEqual([...buffers.outputs.ids], [0n, 0n, 0n])
    front.fill(5)
    buffers.reset({ side: 'back' })
    assert.ok(front.every((value) => value === 0))
    assert.deepEqual(manager.getMemoryStats(), before)
  })
}

test('invalid specs are refused by name, and nothing is allocated', (t) => {
  const manager = open(t)
  const bad = (spec, code, message) => {
    const error = refuses(
      () => manager.createInferenceBuffers(spec),
      code,
      JSON.stringify(spec, (_, value) => (typeof value === 'bigint' ? `${value}n` : value)),
    )
    assert.match(`${error.message} ${error.hint}`, message)
  }
  bad(undefined, 'ERR_INVALID_ARG_TYPE', /needs a spec/)
  bad({}, 'ERR_INVALID_ARG_TYPE', /asks for no array/)
  bad({ maxToken: 5 }, 'ERR_INVALID_ARG_TYPE', /did you mean "maxTokens"/)
  bad({ maxTokens: 5n }, 'ERR_INVALID_ARG_TYPE', /maxTokens must be a number/)
  bad({ maxTokens: 0 }, 'ERR_OUT_OF_RANGE', /maxTokens is 0/)
  bad({ maxTokens: 9, contextLength: 8 }, 'ERR_OUT_OF_RANGE', /more than the contextLength/)
  bad({ maxTokens: 9, header: '1.0' }, 'ERR_OUT_OF_RANGE', /header/)
  bad({ embeddings: true, maxTokens: 3 }, 'ERR_INVALID_ARG_TYPE', /hiddenSize/)
  bad({ maxTokens: 3, logits: true }, 'ERR_INVALID_ARG_TYPE', /vocabSize/)
  bad({ hiddenSize: 3, hiddenStates: true }, 'ERR_INVALID_ARG_TYPE', /maxTokens/)
  bad({ image: { count: 2 }, hiddenSize: 2 }, 'ERR_INVALID_ARG_TYPE', /needs "tokens"/)
  bad({ image: { tokens: 2, hiddensize: 2 } }, 'ERR_INVALID_ARG_TYPE', /did you mean "hiddenSize"/)
  bad({ image: { tokens: 2 } }, 'ERR_INVALID_ARG_TYPE', /hiddenSize/)
  bad({ ...SPEC, header: '1.1' }, 'ERR_UNSUPPORTED', /cross-attention/)
  bad({ image: { tokens: 2 ** 31 - 1, count: 2 ** 31 - 1, hiddenSize: 2 ** 31 - 1 } }, 'ERR_OUT_OF_RANGE', /2\^53/)
  bad({ rknnInputs: [{ name: 'a', shape: [2 ** 31, 4], dtype: 'int8' }] }, 'ERR_OUT_OF_RANGE', /inputs\.a/)
  bad({ rknnInputs: [{ name: 'a', shape: [], dtype: 'int8' }] }, 'ERR_OUT_OF_RANGE', /0 dimensions/)
  bad({ rknnInputs: [{ name: 'a', shape: [1], dtype: 'int4' }] }, 'ERR_OUT_OF_RANGE', /dtype/)
  bad(
    { rknnOutputs: ['a', 'a'].map((name) => ({ name, shape: [1], dtype: 'int8' })) },
    'ERR_OUT_OF_RANGE',
    /two tensors named "a"/,
  )
  bad(
    { maxTokens: 2, allocation: { hugePage: true }, kind: 'system' },
    'ERR_INVALID_ARG_TYPE',
    /did you mean "hugePages"/,
  )
  assertNothingLeft(manager)
})

test('all or nothing: a part that fails frees the others', (t) => {
  const manager = open(t, { limits: { npu: { max: 64 << 10 } } })
  const spec = { kind: 'npu', maxTokens: 64, hiddenSize: 4096, name: 'again' }
  refuses(() => manager.createInferenceBuffers(spec), 'ERR_MEMORY_LIMIT')
  assertNothingLeft(manager)
  // As a subclass may: the third part fails.
  let parts = 0
  const { createMemoryPool } = manager
  manager.createMemoryPool = function (options) {
    const pool = createMemoryPool.call(this, options)
    const allocate = pool.allocate.bind(pool)
    pool.allocate = (...request) => {
      if (++parts === 3) throw new Error('no more')
      return allocate(...request)
    }
    return pool
  }
  assert.throws(() => manager.createInferenceBuffers({ maxTokens: 4, hiddenSize: 8, name: 'again' }), /no more/)
  assertNothingLeft(manager)
  assert.equal(manager.getMemoryPool('again'), undefined)
})

test('invalid requests are refused', (t) => {
  const buffers = open(t).createInferenceBuffers({ ...SPEC, promptBytes: 8 })
  const { message, requested, limit } = refuses(() => buffers.promptInput('ü'.repeat(4)), 'ERR_OUT_OF_RANGE')
  assert.match(message, /prompt takes 9 bytes/)
  assert.deepEqual([requested, limit], [9, 8])
  buffers.promptInput('ü'.repeat(3))
  refuses(() => buffers.promptInput('a\0b'), 'ERR_OUT_OF_RANGE')
  refuses(() => buffers.promptInput(5), 'ERR_INVALID_ARG_TYPE')
  refuses(() => buffers.promptInput('a', { rolle: 'user' }), 'ERR_INVALID_ARG_TYPE')
  refuses(() => buffers.promptInput('a', { role: 'r'.repeat(64) }), 'ERR_OUT_OF_RANGE')
  refuses(() => buffers.tokenInput(33), 'ERR_OUT_OF_RANGE')
  refuses(() => buffers.embedInput(0), 'ERR_OUT_OF_RANGE')
  refuses(() => buffers.multimodalInput('a', { images: 3 }), 'ERR_OUT_OF_RANGE')
  refuses(() => buffers.crossAttention(6), 'ERR_OUT_OF_RANGE')
  refuses(() => buffers.swap(), 'ERR_UNSUPPORTED')
  refuses(() => buffers.reset({ side: 'back' }), 'ERR_UNSUPPORTED')
  refuses(() => buffers.syncToDevice('token'), 'ERR_OUT_OF_RANGE')
  const old = open(t).createInferenceBuffers({
    maxTokens: 4,
    header: '1.1',
    image: { tokens: 2, hiddenSize: 2, count: 2 },
  })
  refuses(() => old.tokenInput(1, { role: 'user' }), 'ERR_UNSUPPORTED')
  refuses(() => old.multimodalInput('a'), 'ERR_UNSUPPORTED')
  old.multimodalInput('a', { images: 1 })
  for (const options of [{ width: 2 }, { height: 2 }, { imageEnd: 'x' }]) {
    const { message: why } = refuses(() => old.multimodalInput('a', { images: 1, ...options }), 'ERR_UNSUPPORTED')
    assert.ok(why.endsWith(`rkllm.h 1.1 has no ${Object.keys(options)[0]}`), why)
  }
  refuses(() => old.inferParam({ maxNewTokens: 1 }), 'ERR_UNSUPPORTED')
  refuses(() => old.inferParam({ keepHistory: false }), 'ERR_UNSUPPORTED')
  refuses(() => old.embedInput(1), 'ERR_UNSUPPORTED')
})

test('pinned buffers stay; a session that ended from outside reports the cause', (t) => {
  const manager = open(t)
  const buffers = manager.createInferenceBuffers({ ...SPEC, name: 'one' })
  buffers.pin()
  refuses(() => buffers.dispose(), 'ERR_BUFFER_BUSY')
  refuses(() => manager.deallocate(buffers.tokens), 'ERR_BUFFER_BUSY')
  buffers.unpin()
  refuses(() => buffers.unpin(), 'ERR_OUT_OF_RANGE')
  manager.deallocate(buffers.tokens)
  refuses(() => buffers.tokenInput(1), 'ERR_BUFFER_FREED')
  buffers.embedInput(1)
  buffers.pin()
  refuses(() => manager.deallocate(buffers.embeddings), 'ERR_BUFFER_BUSY')
  buffers.unpin()
  manager.destroyMemoryPool('one', { force: true })
  refuses(() => buffers.embedInput(1), 'ERR_POOL_DESTROYED')
  assert.equal(buffers.disposed, true)
  buffers.dispose()
  const other = manager.createInferenceBuffers(SPEC)
  manager.dispose()
  refuses(() => other.tokens, 'ERR_MANAGER_DISPOSED')
  other.dispose()
})

test('structs do not point to transferred buffers', { skip: needsTransfer }, (t) => {
  const buffers = open(t).createInferenceBuffers(SPEC)
  buffers.embeddings.buffer.transfer()
  refuses(() => buffers.embedInput(1), 'ERR_BUFFER_FREED')
  buffers.reset()
})

test('the collector frees a session dropped with all its arrays; one array keeps it', async (t) => {
  const manager = open(t)
  const there = () =>
    Array.from({ length: 20 }, (_, n) => n).filter((n) => manager.getMemoryPool(`dropped ${n}`) !== undefined)
  const drop = (n) => void manager.createInferenceBuffers({ maxTokens: 8, name: `dropped ${n}` }).tokens.fill(n)
  const { tokens } = manager.createInferenceBuffers({ maxTokens: 8, name: 'dropped 0' })
  for (let n = 1; n < 20; n++) drop(n)
  assert.equal(there().length, 20)
  // Conservative stack scanning of some engines may keep a few sessions.
  for (let i = 0; i < 100 && there().length > 5; i++) {
    collectGarbage()
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  assert.ok(there().length <= 5, `${there().length} of 20 are left`)
  assert.equal(there()[0], 0)
  tokens[0] = 1
})

// ── The C side

const MAIN = fileURLToPath(new URL('../../../examples/inference/main.mjs', import.meta.url))
const skip = needsCommand('cc') || (!existsSync(MAIN) && 'needs examples/') || noFfi
const args = runtime === 'deno' ? ['run', '--allow-all', MAIN] : [MAIN]
const example = (...options) =>
  spawnSync(process.execPath, [...args, ...options], { encoding: 'utf8', env: { ...process.env, NODE_OPTIONS: '' } })

test('fields lie where the C compiler puts them', { skip }, () => {
  const { status, stdout, stderr } = example('--layouts')
  assert.equal(status, 0, stderr)
  const plain = (structs) =>
    Object.fromEntries(
      Object.entries(structs).map(([name, { size, align, fields }]) => [
        name,
        {
          size,
          align,
          fields: Object.fromEntries(Object.entries(fields).map(([field, { offset }]) => [field, offset])),
        },
      ]),
    )
  const ours = Object.fromEntries(
    Object.entries({ ...headers, rknn }).map(([header, structs]) => [header, plain(structs)]),
  )
  const theirs = JSON.parse(stdout)
  // layouts.test.mjs compares the other structs of rkllm.h.
  for (const [header, structs] of Object.entries(ours)) {
    for (const name of Object.keys(structs)) if (!(name in theirs[header])) delete structs[name]
  }
  assert.deepEqual(theirs, ours)
})

test('the example: every value the same on both sides', { skip }, () => {
  const { status, stdout, stderr } = example()
  assert.equal(status, 0, stderr + stdout)
  assert.match(stdout, /every value the same on both sides/)
  assert.equal([...stdout.matchAll(/^(npu|system) .* 0$/gm)].length, 8)
})

test('the example notices a value that differs', { skip }, () => {
  const { status, stderr } = example('--corrupt')
  assert.equal(status, 1)
  assert.match(stderr, /tokens: data/)
})
