/**
 * A pool that a serving trace has driven to 60 % fragmentation, before and after compaction. The requests are those of
 * the demo's generator, or of a recorded trace: RKLLM_TEST_TRACE=AzureLLMInferenceTrace_code.csv node --test
 * __test__/js/reclaim/compaction-trace.test.mjs
 */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { generateWorkload, readTrace } from '../../../examples/demo/workload.mjs'
import { KiB, MiB, open, refuses } from '../../support/helpers.mjs'

const trace = process.env.RKLLM_TEST_TRACE
const workload = trace ? readTrace(trace, 2000) : generateWorkload(2000, 3)

/** Concurrent requests, as in the demo. */
const BATCH = 8
const BLOCK_TOKENS = 16
const BLOCK_BYTES = 8 * KiB
/** Bytes of the embeddings of a prompt during prefill. */
const EMBEDDING_BYTES = 128
const POOL = 64 * MiB

/**
 * Serves the trace like a server with a prefix cache: the KV blocks of finished requests stay until the pool is full,
 * then every second one is freed. Yields all live blocks after every request.
 */
function* serve(pool) {
  const running = []
  let cached = []
  let stamp = 0
  const take = (request, bytes) => {
    if (pool.stats().free < 2 * bytes + MiB) {
      cached = cached.filter((old, at) => at % 2 === 0 || (old.blocks.forEach(({ block }) => block.free()), false))
    }
    const block = pool.allocate(bytes, { movable: true })
    new Uint8Array(block.buffer).fill(++stamp)
    request.blocks.push({ block, stamp: stamp & 255 })
  }
  for (const { context, generated } of workload) {
    const request = { blocks: [], left: generated }
    take(request, context * EMBEDDING_BYTES)
    const embeddings = request.blocks.pop()
    for (let token = 0; token < context; token += BLOCK_TOKENS) take(request, BLOCK_BYTES)
    embeddings.block.free()
    running.push(request)
    while (running.length === BATCH) {
      for (const one of running) if (one.left-- % BLOCK_TOKENS === 0) take(one, BLOCK_BYTES)
      for (const one of running.filter(({ left }) => left <= 0)) cached.push(...running.splice(running.indexOf(one), 1))
    }
    yield [...running, ...cached].flatMap(({ blocks }) => blocks)
  }
}

test('an allocation of half the free bytes fails before compaction, succeeds after, and no byte is lost', (t) => {
  const manager = open(t, { cleanup: { onExhaustion: false, defragmentAbove: null } })
  const pool = manager.createMemoryPool({ name: 'kv', kind: 'system', initialSize: POOL, maxSize: POOL })
  let times = 0
  for (const live of serve(pool)) {
    const { fragmentation, free, largestFree } = pool.stats()
    if (fragmentation < 0.6) continue
    const half = free / 2
    assert.ok(largestFree < half)
    const error = refuses(() => pool.allocate(half), 'ERR_POOL_EXHAUSTED')
    assert.equal(error.largestFree, largestFree)
    const result = pool.defragment()
    assert.ok(result.fragmentationAfter < 0.02, `${result.fragmentationAfter} after`)
    pool.allocate(half).free()
    for (const { block, stamp } of live) assert.ok(new Uint8Array(block.buffer).every((byte) => byte === stamp))
    if (++times === 3) break
  }
  assert.equal(times, 3, 'the trace reached 60 % fragmentation')
})
