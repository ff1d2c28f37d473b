/** `createModelResidency` with models of this process: arguments, leases, loads that fail, evictions, the end. */

import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { test } from 'node:test'

import { MiB, open, rejects, refuses, runChild } from '../../support/helpers.mjs'
import { counted, deferred, reservedFor, residency, statsOf } from '../../support/residency.mjs'

test('a definition that is wrong is refused at creation, with the model and the field, and reserves nothing', (t) => {
  const manager = open(t)
  const make = (models, more) => () => manager.createModelResidency({ models, ...more })
  const load = () => 1
  for (const [call, code, pattern] of [
    [() => manager.createModelResidency(), 'ERR_INVALID_ARG_TYPE', /needs options/],
    [() => manager.createModelResidency({}), 'ERR_INVALID_ARG_TYPE', /models is missing/],
    [make({}), 'ERR_INVALID_ARG_TYPE', /models is empty/],
    [make([]), 'ERR_INVALID_ARG_TYPE', /models must be an object/],
    [make({ chat: null }), 'ERR_INVALID_ARG_TYPE', /models\.chat must be an object/],
    [make({ chat: { ramBytes: 1 } }), 'ERR_INVALID_ARG_TYPE', /models\.chat has neither load nor worker/],
    [make({ chat: { ramBytes: 1, load: 'x' } }), 'ERR_INVALID_ARG_TYPE', /models\.chat: load must be a function/],
    [make({ chat: { ramBytes: 1, load, unload: 1 } }), 'ERR_INVALID_ARG_TYPE', /models\.chat: unload/],
    [make({ chat: { load } }), 'ERR_INVALID_ARG_TYPE', /models\.chat cannot be estimated/],
    [make({ chat: { path: '/missing.rkllm', load } }), 'ERR_DEVICE_IO', /models\.chat cannot be estimated.*missing/],
    [make({ chat: { weightBytes: 1, load } }), 'ERR_INVALID_ARG_TYPE', /models\.chat.*contextLength is missing/],
    [make({ chat: { ramBytes: 0, load } }), 'ERR_OUT_OF_RANGE', /models\.chat: ramBytes/],
    [make({ chat: { ramBytes: 1, npuBytes: 2, load } }), 'ERR_OUT_OF_RANGE', /models\.chat: npuBytes/],
    [make({ chat: { ramBytes: 1, load, concurrency: 0 } }), 'ERR_OUT_OF_RANGE', /models\.chat: concurrency/],
    [make({ chat: { ramBytes: 1, load, priority: NaN } }), 'ERR_OUT_OF_RANGE', /models\.chat: priority/],
    [make({ chat: { ramBytes: 1, load, keepAliveMs: -1 } }), 'ERR_OUT_OF_RANGE', /models\.chat: keepAliveMs/],
    [make({ chat: { ramBytes: 1, load, group: '' } }), 'ERR_OUT_OF_RANGE', /models\.chat: group/],
    [make({ chat: { ramBytes: 1, load } }, { policy: 'fifo' }), 'ERR_OUT_OF_RANGE', /policy/],
    [make({ chat: { ramBytes: 1, load } }, { keepFree: -1 }), 'ERR_OUT_OF_RANGE', /keepFree/],
    [make({ chat: { ramBytes: 9, load } }, { limits: { ram: 8 } }), 'ERR_OUT_OF_RANGE', /limits\.ram.*"chat"/],
    [make({ chat: { ramBytes: 9, load } }, { limits: { npu: 8 } }), 'ERR_OUT_OF_RANGE', /limits\.npu.*"chat"/],
  ])
    assert.match(refuses(call, code, String(pattern)).message, pattern)
  const { hint } = refuses(make({ chat: { ramBytes: 1, load, keepalive: 1 } }), 'ERR_INVALID_ARG_TYPE')
  assert.match(hint, /keepAliveMs/)
  assert.match(refuses(make({ chat: { load } }), 'ERR_INVALID_ARG_TYPE').hint, /ramBytes/)
  assert.deepEqual(manager.getMemoryUsage().reservations, [])
})

test('arguments of calls are checked, and a name is suggested', async (t) => {
  const models = residency(t, { chat: counted(), embed: counted() })
  for (const call of [
    () => models.acquire('chatt'), () => models.use('chatt', () => 1), () => models.preload('chatt'),
    () => models.evict('chatt'),
  ]) {
    const { message, hint } = await rejects(call(), 'ERR_INVALID_ARG_TYPE')
    assert.match(message, /no model is called "chatt"/)
    assert.match(hint, /did you mean "chat"/)
  }
  assert.throws(() => models.plan('nothing'), { code: 'ERR_INVALID_ARG_TYPE' })
  await rejects(models.acquire(5), 'ERR_INVALID_ARG_TYPE')
  await rejects(models.acquire('__proto__'), 'ERR_INVALID_ARG_TYPE')
  await rejects(models.use('chat'), 'ERR_INVALID_ARG_TYPE')
  await rejects(models.use('chat', () => 1, { timeout: 5 }), 'ERR_INVALID_ARG_TYPE')
  await rejects(models.acquire('chat', { signal: 5 }), 'ERR_INVALID_ARG_TYPE')
  await rejects(models.acquire('chat', { timeoutMs: -1 }), 'ERR_OUT_OF_RANGE')
  await rejects(models.evict('chat', { force: 1 }), 'ERR_INVALID_ARG_TYPE')
  await rejects(models.use.call({}, 'chat', () => 1), 'ERR_INVALID_ARG_TYPE')
  await rejects(models.use.call(undefined, 'chat', () => 1), 'ERR_INVALID_ARG_TYPE')
  assert.equal(statsOf(models, 'chat').loads, 0)
})

test('a model is loaded once for all that ask, and its bytes are reserved until it is gone', async (t) => {
  const chat = counted(8 * MiB, { concurrency: 8, npuBytes: 3 * MiB })
  const models = residency(t, { chat })
  const domains = await Promise.all(Array.from({ length: 8 }, () => models.use('chat', ({ domain }) => domain)))
  assert.deepEqual([...new Set(domains)].length, 1)
  assert.equal(chat.counts.loads, 1)
  assert.equal(reservedFor(models), 8 * MiB)
  const { tags, npu } = models.manager.getMemoryUsage()
  assert.equal(tags['model:chat'].taken, 8 * MiB)
  if (npu.domains.length > 0) assert.equal(npu.domains[domains[0]].reservedForOthers, 3 * MiB)
  const gone = once(models, 'gone')
  await models.evict('chat')
  assert.deepEqual([chat.counts.unloads, reservedFor(models), statsOf(models, 'chat').state], [1, 0, 'cold'])
  const [{ machine }] = await gone
  assert.deepEqual(Object.keys(machine), ['availableDrop', 'cma', 'sram', 'heap'])
})

test('two models that fit alone take turns, and the events tell of it', async (t) => {
  const models = residency(t, { a: counted(6 * MiB), b: counted(6 * MiB) }, { limits: { ram: 10 * MiB } })
  const seen = []
  for (const name of ['load', 'ready', 'evict', 'gone'])
    models.on(name, ({ name: model, reason }) => seen.push([name, model, reason].filter(Boolean).join(' ')))
  for (const name of ['a', 'b', 'a']) assert.equal(await models.use(name, (model) => model.name), name)
  await models.close()
  await new Promise((resolve) => setImmediate(resolve))
  const turn = (name, reason) => [`load ${name}`, `ready ${name}`, `evict ${name} ${reason}`, `gone ${name} ${reason}`]
  assert.deepEqual(seen.sort(), [...turn('a', 'room'), ...turn('b', 'room'), ...turn('a', 'closed')].sort())
})

test('errors of the work pass as they are, and the lease ends', async (t) => {
  const models = residency(t, { chat: counted() })
  const mine = new TypeError('mine')
  const thrown = await models.use('chat', () => { throw mine }).catch((error) => error)
  const rejected = await models.use('chat', () => Promise.reject(mine)).catch((error) => error)
  assert.ok(thrown === mine && rejected === mine)
  assert.equal(statsOf(models, 'chat').leases, 0)
})

test('a lease is held until its release, and Symbol.dispose releases it', async (t) => {
  const models = residency(t, { chat: counted() })
  const lease = await models.acquire('chat')
  assert.deepEqual([lease.name, lease.model.name, lease.signal.aborted], ['chat', 'chat', false])
  await rejects(models.evict('chat'), 'ERR_POOL_BUSY')
  const next = models.acquire('chat')
  assert.deepEqual([statsOf(models, 'chat').leases, statsOf(models, 'chat').waiting], [1, 1])
  assert.equal(statsOf(models, 'chat').idleMs, null)
  lease.release()
  lease.release()
  const second = await next
  assert.equal(statsOf(models, 'chat').leases, 1)
  if (Symbol.dispose) second[Symbol.dispose]()
  else second.release()
  assert.equal(statsOf(models, 'chat').leases, 0)
  assert.ok(statsOf(models, 'chat').idleMs >= 0)
})

test('a request ends at its deadline and at its abort, and gives up its place', async (t) => {
  const loading = deferred()
  const models = residency(t, { chat: counted(MiB, { load: () => loading.promise }) })
  const late = await rejects(models.acquire('chat', { timeoutMs: 5 }), 'ERR_POOL_BUSY')
  assert.match(late.message, /"chat" was being loaded for 5 ms/)
  const reason = new Error('mine')
  const controller = new AbortController()
  const aborted = models.use('chat', () => assert.fail('it was aborted'), { signal: controller.signal })
  controller.abort(reason)
  assert.equal(await aborted.catch((error) => error), reason)
  assert.equal(await models.acquire('chat', { signal: controller.signal }).catch((error) => error), reason)
  await rejects(models.acquire('chat', { timeoutMs: 0 }), 'ERR_POOL_BUSY')
  assert.equal(models.stats().waiting, 0)
  loading.resolve({})
})

test('a load is aborted when no request waits for it, and gives its bytes back', async (t) => {
  const aborted = deferred()
  const load = ({ signal }) =>
    new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => {
        aborted.resolve()
        reject(signal.reason)
      })
    })
  const models = residency(t, { chat: counted(MiB, { load }) })
  const controller = new AbortController()
  const request = models.preload('chat', { signal: controller.signal })
  await once(models, 'load')
  assert.equal(reservedFor(models), MiB)
  controller.abort()
  await assert.rejects(request, { name: 'AbortError' })
  await aborted.promise
  await models.evict('chat')
  assert.deepEqual([statsOf(models, 'chat').state, reservedFor(models)], ['cold', 0])
})

test('a load that fails is tried again once, then its requests are refused with the known cause', async (t) => {
  const line = 'E RKNN: failed to malloc npu memory, size: 4022272000, flags: 0x2'
  let loads = 0
  const load = () => {
    loads++
    throw new Error(line)
  }
  const models = residency(t, { chat: counted(MiB, { load }) })
  const failures = []
  models.on('fail', ({ name, error }) => failures.push([name, error.code]))
  const error = await models.use('chat', () => assert.fail('it was not loaded')).catch((thrown) => thrown)
  assert.equal(loads, 2)
  assert.equal(error.cause.message, line)
  assert.match(error.message, /the model "chat" was not loaded: /)
  assert.doesNotMatch(error.message, /failed to malloc/, 'the cause is explained')
  assert.equal(typeof error.hint, 'string')
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(failures, [['chat', error.code], ['chat', error.code]])
  assert.deepEqual([statsOf(models, 'chat').state, reservedFor(models)], ['failed', 0])
  await rejects(models.preload('chat'), error.code)
  assert.equal(loads, 4, 'the next request tries again')
})

test('a load that allocates with the manager, and finds no room, is tried again without the idle models', async (t) => {
  const buffers = (manager) => ({
    ramBytes: 1,
    load: () => manager.allocateNPUMemory(6 * MiB),
    unload: (buffer) => manager.deallocate(buffer),
  })
  const manager = open(t)
  manager.setMemoryLimits({ npu: { max: 10 * MiB } })
  const models = manager.createModelResidency({ models: { a: buffers(manager), b: buffers(manager) } })
  await models.preload('a')
  assert.equal(await models.use('b', ({ byteLength }) => byteLength), 6 * MiB)
  assert.deepEqual(models.stats().models.map(({ state, loads }) => [state, loads]), [['cold', 1], ['ready', 1]])
  await models.close()
})

test('a load that never settles ends at its deadline, and its bytes stay accounted until it settles', async (t) => {
  const loading = deferred()
  const chat = counted(4 * MiB, { load: () => loading.promise, loadTimeoutMs: 5 })
  const models = residency(t, { chat, other: counted(4 * MiB) }, { limits: { ram: 6 * MiB } })
  const stuck = once(models, 'stuck')
  await rejects(models.use('chat', () => 1), 'ERR_DEVICE_IO')
  assert.deepEqual(await stuck, [{ name: 'chat', bytes: 4 * MiB, keptBy: 'library' }])
  assert.deepEqual([statsOf(models, 'chat').state, statsOf(models, 'chat').bytes.stuck], ['stuck', 4 * MiB])
  assert.equal(reservedFor(models), 4 * MiB)
  await rejects(models.acquire('other', { timeoutMs: 5 }), 'ERR_POOL_BUSY')
  const waiting = models.use('other', (model) => model.name)
  loading.resolve('late')
  assert.equal(await waiting, 'other')
  assert.deepEqual([chat.counts.unloads, statsOf(models, 'chat').state], [1, 'cold'])
})

test('an unload that throws is told of, its memory stays accounted, and evict tries again', async (t) => {
  let works = false
  const unload = () => {
    if (!works) throw new Error('still busy')
  }
  const models = residency(t, { chat: counted(4 * MiB, { unload }) })
  await models.preload('chat')
  const failed = once(models, 'fail')
  await models.evict('chat')
  const [{ error }] = await failed
  assert.match(error.message, /"chat" was not unloaded.*still busy/)
  assert.deepEqual([statsOf(models, 'chat').state, reservedFor(models)], ['stuck', 4 * MiB])
  await rejects(models.evict('chat'), 'ERR_DEVICE_IO')
  works = true
  await models.evict('chat')
  assert.deepEqual([statsOf(models, 'chat').state, reservedFor(models)], ['cold', 0])
  assert.equal(await models.use('chat', (model) => model.load), 2)
})

test('a model that can never fit is refused at once, with the figures', async (t) => {
  const models = residency(t, { small: counted(MiB), large: counted(9 * MiB), npu: counted(3 * MiB) }, {
    limits: { ram: 8 * MiB, npu: 2 * MiB },
  })
  const ram = await rejects(models.use('large', () => 1), 'ERR_OUT_OF_MEMORY')
  assert.deepEqual([ram.requested, ram.limit, ram.scope], [9 * MiB, 8 * MiB, 'ram'])
  assert.match(ram.message, /9 MiB of RAM.*8 MiB/)
  const npu = await rejects(models.acquire('npu'), 'ERR_MEMORY_LIMIT')
  assert.deepEqual([npu.requested, npu.limit, npu.scope], [3 * MiB, 2 * MiB, 'npu'])
  assert.equal(models.plan('large'), null)
})

test('a pinned model stays, and a model that does not fit beside it is refused', async (t) => {
  const models = residency(t, { pinned: counted(6 * MiB, { pinned: true }), other: counted(6 * MiB) }, {
    limits: { ram: 8 * MiB },
  })
  await models.preload('pinned')
  const { message } = await rejects(models.acquire('other'), 'ERR_OUT_OF_MEMORY')
  assert.match(message, /beside the pinned "pinned"/)
  await models.evict('pinned')
  assert.equal(await models.use('other', (model) => model.name), 'other')
})

test('what other allocations and limits of the manager take counts', async (t) => {
  const models = residency(t, { chat: counted(4 * MiB) })
  models.manager.setMemoryLimits({ total: { max: 6 * MiB } })
  const other = models.manager.reserve(3 * MiB, { kind: 'system' })
  const late = await rejects(models.acquire('chat', { timeoutMs: 5 }), 'ERR_POOL_BUSY')
  assert.match(late.message, /waited for memory for 5 ms: it may need 4 MiB of RAM, and 3 MiB of the models' 6 MiB are/)
  assert.deepEqual([late.requested, late.available], [4 * MiB, 3 * MiB])
  const waiting = models.preload('chat')
  other.release()
  await waiting
  await models.evict('chat')
  models.manager.setMemoryLimits({ total: { max: 3 * MiB } })
  await rejects(models.acquire('chat'), 'ERR_OUT_OF_MEMORY')
})

test('a gauge that reads too low admits nothing: a model counts with its reserved bytes (omlx#1623)', async (t) => {
  // Nothing of 6 MiB is resident yet: weights are mapped, and the cache fills later.
  const models = residency(t, { chat: counted(6 * MiB), other: counted(5 * MiB) }, { limits: { ram: 10 * MiB } })
  const lease = await models.acquire('chat')
  const { bytes } = statsOf(models, 'chat')
  assert.deepEqual([bytes.reserved, bytes.measured < 6 * MiB], [6 * MiB, true])
  const late = await rejects(models.acquire('other', { timeoutMs: 20 }), 'ERR_POOL_BUSY')
  assert.deepEqual([late.requested, late.available], [5 * MiB, 4 * MiB])
  lease.release()
  assert.equal(await models.use('other', (model) => model.name), 'other')
  assert.equal(statsOf(models, 'chat').state, 'cold')
})

test('keep-alive: 0 unloads after the last lease, and a longer one keeps the model', async (t) => {
  const [brief, long] = [counted(MiB, { keepAliveMs: 0 }), counted(MiB, { keepAliveMs: Infinity })]
  const models = residency(t, { brief, long })
  const gone = once(models, 'gone')
  await models.use('long', () => 1)
  await models.use('brief', () => 1)
  const [{ name, reason }] = await gone
  assert.deepEqual([name, reason, statsOf(models, 'long').state], ['brief', 'idle', 'ready'])
})

test('a forced eviction ends leases with an error, and waiting requests too', async (t) => {
  const models = residency(t, { chat: counted() })
  const lease = await models.acquire('chat')
  const { signal } = lease
  const waiting = models.acquire('chat')
  const evicted = models.evict('chat', { force: true })
  await rejects(waiting, 'ERR_DEVICE_LOST')
  await evicted
  assert.equal(signal.aborted, true)
  assert.equal(signal.reason.code, 'ERR_DEVICE_LOST')
  lease.release()
  assert.equal(statsOf(models, 'chat').state, 'cold')
  const used = models.use('chat', () => new Promise(() => {}))
  await once(models, 'ready')
  await models.evict('chat', { force: true })
  await rejects(used, 'ERR_DEVICE_LOST')
})

test('close refuses, waits for leases, unloads, and may be called again', async (t) => {
  const chat = counted()
  const models = residency(t, { chat })
  const lease = await models.acquire('chat')
  const waiting = rejects(models.acquire('chat'), 'ERR_MANAGER_DISPOSED')
  const closing = models.close()
  assert.equal(models.closed, true)
  await waiting
  assert.equal(lease.signal.reason.code, 'ERR_MANAGER_DISPOSED')
  await rejects(models.acquire('chat'), 'ERR_MANAGER_DISPOSED')
  assert.equal(chat.counts.unloads, 0)
  lease.release()
  await closing
  await models.close()
  assert.deepEqual([chat.counts.unloads, reservedFor(models)], [1, 0])
})

test('dispose of the manager ends the residency: leases and requests are rejected, models unloaded', async (t) => {
  const chat = counted()
  const models = residency(t, { chat })
  const used = models.use('chat', () => new Promise(() => {}))
  const waiting = models.acquire('chat')
  await once(models, 'ready')
  models.manager.dispose()
  await rejects(used, 'ERR_MANAGER_DISPOSED')
  await rejects(waiting, 'ERR_MANAGER_DISPOSED')
  await rejects(models.preload('chat'), 'ERR_MANAGER_DISPOSED')
  await new Promise((resolve) => setImmediate(resolve))
  assert.equal(chat.counts.unloads, 1)
})

test('plan tells what would be evicted and where models would go, and changes nothing', async (t) => {
  const models = residency(t, { a: counted(6 * MiB), b: counted(6 * MiB), c: counted(2 * MiB) }, {
    limits: { ram: 10 * MiB },
  })
  await models.preload('a')
  const { evict, placements } = models.plan('b', 'c')
  assert.deepEqual(evict, ['a'])
  assert.deepEqual(placements.map(({ model, bytes }) => [model, bytes]), [['b', 6 * MiB], ['c', 2 * MiB]])
  assert.equal(models.plan('a', 'b'), null)
  assert.deepEqual(models.stats().models.map(({ state }) => state), ['ready', 'cold', 'cold'])
})

test('a model larger than a domain continues in the next ones', async (t) => {
  const manager = open(t, { simulated: { domainBytes: 8 * MiB, domains: 4 } })
  if (!manager.device.simulated || !manager.device.iommu) return t.skip('needs domains of a known size')
  const models = manager.createModelResidency({ models: { big: { ramBytes: 20 * MiB, load: ({ domain }) => domain } } })
  assert.equal(await models.use('big', (domain) => domain), 0)
  const held = manager.getNPUMemoryStats().domains.map(({ reservedForOthers }) => reservedForOthers / MiB)
  assert.deepEqual(held, [8, 8, 4, 0])
})

test('a dropped lease is found by the collector, warned of and released', () => {
  const { result, stderr } = runChild('dropped-lease.mjs', { flags: ['--expose-gc'] })
  assert.deepEqual(result, { leases: 0, warning: 'RKLLM_LEASE_DROPPED' }, stderr)
})

test('an idle model keeps no process alive', () => {
  assert.deepEqual(runChild('idle-residency.mjs').result, { state: 'ready' })
})

test('every event is a message of the channel', async (t) => {
  const models = residency(t, { chat: counted() })
  const messages = []
  const collect = ({ manager, event, name }) => manager === models.manager && messages.push([event, name])
  subscribe('rkllm-memory:model', collect)
  t.after(() => unsubscribe('rkllm-memory:model', collect))
  await models.preload('chat')
  await models.close()
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(messages, ['load', 'ready', 'evict', 'gone'].map((event) => [event, 'chat']))
})

test('usage and metrics have every model', async (t) => {
  const models = residency(t, { chat: counted(3 * MiB), cold: counted() })
  const lease = await models.acquire('chat')
  const { models: usage } = models.manager.getMemoryUsage()
  const shown = usage.map(({ name, state, leases: count }) => [name, state, count])
  assert.deepEqual(shown, [['chat', 'ready', 1], ['cold', 'cold', 0]])
  const text = models.manager.metrics()
  for (const line of [
    `rkllm_memory_model_reserved_bytes{model_name="chat"} ${3 * MiB}`,
    'rkllm_memory_model_state{model_name="chat",state="ready"} 1',
    'rkllm_memory_model_leases{model_name="chat"} 1',
    'rkllm_memory_model_loads_total{model_name="chat"} 1',
    'rkllm_memory_model_loads_total{model_name="cold"} 0',
  ])
    assert.ok(text.includes(line), line)
  lease.release()
  await models.close()
  assert.deepEqual(models.manager.getMemoryUsage().models, [])
})
