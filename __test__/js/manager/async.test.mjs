/** Allocation, cache maintenance and frees off the JavaScript thread. */

import assert from 'node:assert/strict'
import { PerformanceObserver, constants } from 'node:perf_hooks'
import { test } from 'node:test'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

import {
  assertNothingLeft, backend, device, GiB, MiB, needsCommand, needsOwnKernel, needsSimulated, notOn, open, rejects,
  runChild, settle, slow,
} from '../../support/helpers.mjs'

/** The flag of a collection that a program forced. */
const FORCED = constants.NODE_PERFORMANCE_GC_FLAGS_FORCED

test('asynchronous allocations equal synchronous ones', async (t) => {
  const manager = open(t, { slabs: {} })
  const before = manager.getMemoryStats().liveAllocations
  const buffers = await Promise.all(
    [1, 100, 4096, MiB, 3 * MiB].map((size) => manager.allocateNPUMemoryAsync(size, { tag: 'a' })),
  )
  for (const buffer of buffers) {
    assert.ok(buffer instanceof ArrayBuffer)
    assert.ok(new Uint8Array(buffer).every((byte) => byte === 0))
    new Uint8Array(buffer).fill(7)
    assert.equal(manager.describe(buffer).tag, 'a')
    await manager.syncToDeviceAsync(buffer)
    await manager.syncFromDeviceAsync(new Uint8Array(buffer), 0, 1)
  }
  assert.equal(manager.getMemoryStats().liveAllocations, before + 5)
  assert.deepEqual(buffers.map((buffer) => buffer.byteLength), [1, 100, 4096, MiB, 3 * MiB])
  for (const buffer of buffers) manager.deallocateNPUMemory(buffer)
  assertNothingLeft(manager)
})

test('bad input rejects, and nothing is allocated', async (t) => {
  const manager = open(t)
  for (const size of [0, -1, 1.5, NaN]) await rejects(manager.allocateNPUMemoryAsync(size), 'ERR_OUT_OF_RANGE', size)
  for (const size of ['1', null, undefined])
    await rejects(manager.allocateNPUMemoryAsync(size), 'ERR_INVALID_ARG_TYPE', size)
  assert.match(
    (await rejects(manager.allocateNPUMemoryAsync(1, { sgnal: 1 }), 'ERR_INVALID_ARG_TYPE')).hint,
    /"signal"/,
  )
  for (const signal of [null, 1, {}, { aborted: false }]) {
    await rejects(manager.allocateNPUMemoryAsync(1, { signal }), 'ERR_INVALID_ARG_TYPE')
  }
  // An IOMMU domain addresses 4 GiB at the most; contiguous memory ends with the CMA area, a heap's with the RAM.
  const isBounded = manager.device.iommu || manager.getNPUMemoryStats().cmaTotal > 0
  const tooLarge = isBounded ? 'ERR_OUT_OF_RANGE' : 'ERR_OUT_OF_MEMORY'
  await rejects(manager.allocateNPUMemoryAsync(64 * GiB), tooLarge)
  await rejects(manager.syncToDeviceAsync(new ArrayBuffer(8)), 'ERR_UNKNOWN_BUFFER')
  await rejects(manager.syncToDeviceAsync(8), 'ERR_INVALID_ARG_TYPE')
  const buffer = manager.allocateNPUMemory(4096)
  await rejects(manager.syncToDeviceAsync(buffer, 4000, 97), 'ERR_OUT_OF_RANGE')
  await rejects(manager.syncFromDeviceAsync(buffer, -1), 'ERR_OUT_OF_RANGE')
  await rejects(manager.syncToDeviceAsync(manager.allocateSystemMemory(1)), 'ERR_BUFFER_KIND')
  manager.deallocate(buffer)
  await rejects(manager.syncToDeviceAsync(buffer), 'ERR_BUFFER_FREED')
  assert.equal(manager.getNPUMemoryStats().liveAllocations, 0)
  manager.dispose()
  await rejects(manager.allocateNPUMemoryAsync(1), 'ERR_MANAGER_DISPOSED')
})

test('the event loop turns while the driver blocks', { skip: needsSimulated }, async (t) => {
  const manager = open(t, slow(500))
  const order = []
  const allocated = manager.allocateNPUMemoryAsync(MiB).then((buffer) => (order.push('allocated'), buffer))
  await sleep(1)
  order.push('timer')
  manager.deallocate(manager.allocateSystemMemory(4096))
  manager.getMemoryStats()
  order.push('other work')
  const buffer = await allocated
  const synced = manager.syncToDeviceAsync(buffer).then(() => order.push('synced'))
  await nextTurn()
  order.push('turn')
  await synced
  assert.deepEqual(order, ['timer', 'other work', 'allocated', 'turn', 'synced'])
  manager.deallocate(buffer)
  assert.equal(manager.getNPUMemoryStats().pendingFree, MiB, 'the driver still has it in hand')
  assert.equal(manager.getNPUMemoryStats().objects, 0)
  assert.equal(manager.getMemoryStats().npuUsed, 0)
  settle(manager)
  assert.equal(manager.getNPUMemoryStats().pendingFree, 0)
})

test('an abort rejects at once, and the late memory is freed', { skip: needsSimulated }, async (t) => {
  const manager = open(t, slow(100))
  const reason = new Error('changed my mind')
  assert.equal(
    await manager.allocateNPUMemoryAsync(1, { signal: AbortSignal.abort(reason) }).catch((error) => error),
    reason,
  )
  assert.equal(manager.getNPUMemoryStats().totalAllocations, 0)
  const controller = new AbortController()
  const allocations = [1, 2, 3].map(() =>
    manager.allocateNPUMemoryAsync(MiB, { signal: controller.signal }).catch((error) => error),
  )
  setTimeout(() => controller.abort(reason), 5)
  assert.deepEqual(await Promise.all(allocations), [reason, reason, reason])
  assert.equal(manager.getMemoryStats().liveAllocations, 0)
  const left = () => manager.getNPUMemoryStats().domains[0].used
  for (let i = 0; i < 1000 && left() > 0; i++) await sleep(5)
  assert.equal(left(), 0)
  // A later abort does not affect a settled promise.
  const late = new AbortController()
  const buffer = await manager.allocateNPUMemoryAsync(1, { signal: late.signal })
  late.abort()
  assert.equal(buffer.byteLength, 1)
})

test('dispose ends pending allocations', { skip: needsSimulated }, async (t) => {
  const manager = open(t, slow(100))
  const buffer = manager.allocateNPUMemory(MiB)
  const pending = [
    manager.allocateNPUMemoryAsync(MiB), manager.allocateNPUMemoryAsync(MiB), manager.syncToDeviceAsync(buffer),
  ]
  const settled = Promise.all(pending.map((promise) => rejects(promise, 'ERR_MANAGER_DISPOSED')))
  await sleep(1)
  manager.dispose()
  await settled
})

test(
  'a buffer that is freed while it is synced stays with the driver until that is done',
  { skip: needsSimulated },
  async (t) => {
    const manager = open(t, slow(50))
    const buffer = await manager.allocateNPUMemoryAsync(MiB)
    const synced = manager.syncToDeviceAsync(buffer)
    manager.deallocate(buffer)
    await synced
    settle(manager)
    assert.equal(manager.getNPUMemoryStats().domains[0].used, 0)
  },
)

test('many at once, in any order', { skip: needsSimulated }, async (t) => {
  const manager = open(t, { ...slow(1), slabs: {} })
  const sizes = Array.from({ length: 200 }, (_, at) => 1 + ((at * 7919) % (2 * MiB)))
  const buffers = await Promise.all(sizes.map((size) => manager.allocateNPUMemoryAsync(size)))
  assert.deepEqual(buffers.map((buffer) => buffer.byteLength), sizes)
  const addresses = new Set(buffers.map((buffer) => manager.describe(buffer).address))
  assert.equal(addresses.size, 200)
  for (const buffer of buffers) manager.deallocate(buffer)
  assertNothingLeft(manager)
})

test('an allocation waits for pending frees before it fails', { skip: needsSimulated }, async (t) => {
  const manager = open(t, slow(20, { domainBytes: 64 * MiB, domains: 1 }))
  for (let round = 0; round < 5; round++) {
    const buffer = round % 2 ? manager.allocateNPUMemory(60 * MiB) : await manager.allocateNPUMemoryAsync(60 * MiB)
    manager.deallocate(buffer)
  }
  const few = open(t, slow(20, { maxObjects: 2 }))
  for (let round = 0; round < 10; round++) few.deallocate(few.allocateNPUMemory(4096))
})

test('at a limit, dropped buffers are collected before an allocation is refused', () => {
  const { result } = runChild('async-at-the-limit.mjs', { args: [backend, device ?? ''] })
  assert.deepEqual(result, { refused: 'ERR_MEMORY_LIMIT', allocated: 20 })
})

const needsGcEntries = notOn({ bun: 'it reports no collections', deno: 'it reports no collections' })

test('allocations that are refused at once share their collections', { skip: needsGcEntries }, async (t) => {
  const manager = open(t, { limits: { npu: { max: 4096 } } })
  const buffer = manager.allocateNPUMemory(4096)
  let forced = 0
  const observer = new PerformanceObserver((list) => {
    for (const { detail } of list.getEntries()) forced += Number((detail.flags & FORCED) !== 0)
  })
  observer.observe({ entryTypes: ['gc'] })
  const refused = (count) =>
    Promise.all(Array.from({ length: count }, () => rejects(manager.allocateNPUMemoryAsync(1), 'ERR_MEMORY_LIMIT')))
  await refused(1)
  await sleep(20) // entries come later
  const alone = forced
  assert.ok(alone > 0)
  await refused(100)
  await sleep(20)
  observer.disconnect()
  assert.ok(forced - alone <= 2 * alone, `${forced - alone} collections for 100 refusals, ${alone} for one`)
  manager.deallocate(buffer)
})

test('with onExhaustion off, no refusal forces a collection', () => {
  const { result } = runChild('counted-collections.mjs', { args: [backend, device ?? ''] })
  for (const [onExhaustion, requests] of Object.entries(result)) {
    for (const [name, [code, collections]] of Object.entries(requests)) {
      assert.equal(code, name === 'poolAsync' ? 'ERR_POOL_EXHAUSTED' : 'ERR_MEMORY_LIMIT', name)
      // A synchronous request forces none in any case: finalizers run when the event loop turns.
      assert.equal(collections > 0, onExhaustion === 'true' && name.endsWith('Async'), `${name}: ${collections}`)
    }
  }
})

test('an abort does not wait for a collection', async (t) => {
  const manager = open(t, { limits: { npu: { max: 4096 } } })
  const buffer = manager.allocateNPUMemory(4096)
  const refused = Array.from({ length: 3 }, () => rejects(manager.allocateNPUMemoryAsync(1), 'ERR_MEMORY_LIMIT'))
  const abort = new AbortController()
  const reason = new Error('enough')
  const aborted = assert.rejects(manager.allocateNPUMemoryAsync(1, { signal: abort.signal }), reason)
  await nextTurn()
  abort.abort(reason)
  await aborted
  await Promise.all(refused)
  manager.deallocate(buffer)
})

test('workers and processes may end while drivers are busy', { skip: needsSimulated }, () => {
  for (const end of ['terminate', 'exit', 'throw', 'process-exit', 'process-end']) {
    const { result } = runChild('async-end.mjs', { args: [end] })
    assert.deepEqual(result, { end })
  }
})

const needsLimits =
  needsSimulated ||
  needsOwnKernel ||
  needsCommand('prlimit') ||
  notOn({ bun: 'it starts threads for itself', deno: 'it has no setuid' }) ||
  (process.getuid() === 0 ? false : 'root sets the limit for another user')

test('a call that finds no thread is an error, and a free does not wait for the driver', { skip: needsLimits }, () => {
  const { result } = runChild('no-threads.mjs')
  const refused = 'ERR_DEVICE_IO clone true'
  assert.deepEqual(result, { sync: refused, allocate: refused, receive: refused, pendingFree: 3 * MiB, after: 0 })
})
