/** setMemoryLimits, reserve, and their warnings. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'
import {
  assertLedger, assertNothingLeft, backend, cmaIsShown, device, GiB, KiB, ledger, MiB, needsSimulated, open, refuses,
  runChild,
} from '../../support/helpers.mjs'

const needsDispose = Symbol.dispose === undefined ? `Node ${process.version} has no Symbol.dispose` : false
const PAGE = 4 * KiB

/** Returns a function that returns the warnings since its last call, as `scope percent`. */
function warnings(manager) {
  const heard = []
  manager.on('warning', ({ scope, used, max, ratio, message }) => {
    assert.equal(ratio, used / max)
    assert.match(message, /\d+ %/)
    heard.push(`${scope} ${Math.floor(ratio * 100)}`)
  })
  return async () => {
    await nextTurn()
    return heard.splice(0).filter((warning) => !/^(fds|maps) /.test(warning))
  }
}

test('a hard limit refuses an excess of one byte, and the error names the limit', (t) => {
  const manager = open(t, { limits: { npu: { max: 4 * MiB }, tags: { kv: { max: MiB } } } })
  const first = manager.allocateNPUMemory(MiB, { tag: 'kv' })
  const before = ledger(manager)
  for (const [size, options, figures] of [
    [1, { tag: 'kv' }, { scope: 'tag:kv', limit: MiB, available: 0, requested: 1 }],
    [3 * MiB + 1, {}, { scope: 'npu', limit: 4 * MiB, available: 3 * MiB, requested: 3 * MiB + 1 }],
    [8 * MiB, { tag: 'kv' }, { scope: 'tag:kv', limit: MiB, available: 0, requested: 8 * MiB }],
  ]) {
    const error = refuses(() => manager.allocateNPUMemory(size, options), 'ERR_MEMORY_LIMIT')
    for (const [name, value] of Object.entries(figures)) assert.equal(error[name], value, name)
    assert.match(error.hint, /setMemoryLimits/)
  }
  assertLedger(manager, before)
  assert.equal(manager.getNPUMemoryStats().failedAllocations, 3)
  assert.equal(manager.getNPUMemoryStats().limit, 4 * MiB)
  // A kernel without CMA figures does not show the bytes left.
  if (manager.device.iommu || cmaIsShown) assert.equal(manager.getNPUMemoryStats().available, 3 * MiB)
  const rest = manager.allocateNPUMemory(3 * MiB)
  for (const buffer of [first, rest]) manager.deallocate(buffer)
  assertNothingLeft(manager)
})

test('total counts both kinds, system its own', (t) => {
  const manager = open(t, { limits: { total: { max: 2 * MiB }, system: { max: MiB } } })
  manager.allocateSystemMemory(MiB)
  assert.equal(refuses(() => manager.allocateSystemMemory(1), 'ERR_MEMORY_LIMIT').scope, 'system')
  manager.allocateNPUMemory(MiB - PAGE)
  assert.equal(refuses(() => manager.allocateNPUMemory(PAGE + 1), 'ERR_MEMORY_LIMIT').scope, 'total')
  manager.allocateNPUMemory(PAGE)
  assert.equal(refuses(() => manager.reserve(1), 'ERR_MEMORY_LIMIT').scope, 'total')
  assert.equal(manager.getSystemMemoryStats().limit, MiB)
})

test('limits apply to pools at creation and growth, and to slabs slice by slice', (t) => {
  const manager = open(t, { slabs: {}, limits: { npu: { max: 3 * MiB } } })
  refuses(() => manager.createMemoryPool({ name: 'large', initialSize: 4 * MiB }), 'ERR_MEMORY_LIMIT')
  assert.equal(manager.getMemoryPool('large'), undefined)
  const pool = manager.createMemoryPool({ name: 'kv', initialSize: MiB, maxSize: GiB, chunkSize: MiB })
  const blocks = [1, 2, 3].map(() => pool.allocate(MiB))
  assert.equal(refuses(() => pool.allocate(MiB), 'ERR_MEMORY_LIMIT').scope, 'npu')
  refuses(() => manager.allocateNPUMemory(1), 'ERR_MEMORY_LIMIT')
  blocks[0].free()
  pool.allocate(MiB)
  manager.destroyMemoryPool(pool, { force: true })
  const slices = Array.from({ length: 3 * MiB / (16 * KiB) }, () => manager.allocateNPUMemory(16 * KiB))
  assert.equal(refuses(() => manager.allocateNPUMemory(16 * KiB), 'ERR_MEMORY_LIMIT').available, 0)
  slices.forEach((slice) => manager.deallocate(slice))
  assertNothingLeft(manager)
})

test('limits change scope by scope, and getMemoryLimits gives a copy of all', (t) => {
  const manager = open(t)
  const none = { max: null, warnAt: [0.8, 0.95] }
  assert.deepEqual(manager.getMemoryLimits(), { npu: none, system: none, total: none, tags: {} })
  manager.setMemoryLimits({ npu: { max: MiB, warnAt: [0.9, 0.5] }, tags: { a: { max: 1 }, b: { max: 2, warnAt: [] } } })
  manager.setMemoryLimits({ total: { max: 0 }, tags: { a: { max: null }, c: undefined } })
  const limits = manager.getMemoryLimits()
  assert.deepEqual(limits, {
    npu: { max: MiB, warnAt: [0.5, 0.9] },
    system: none,
    total: { max: 0, warnAt: [0.8, 0.95] },
    tags: { b: { max: 2, warnAt: [] } },
  })
  limits.npu.max = 5
  limits.npu.warnAt.push(1)
  assert.deepEqual(manager.getMemoryLimits().npu, { max: MiB, warnAt: [0.5, 0.9] })
  assert.equal(refuses(() => manager.allocateSystemMemory(1), 'ERR_MEMORY_LIMIT').limit, 0)
  manager.setMemoryLimits(limits)
  manager.setMemoryLimits({ total: {}, npu: {} })
  manager.deallocate(manager.allocateNPUMemory(2 * MiB))
})

test('a limit below the usage frees nothing and refuses every allocation', (t) => {
  const manager = open(t)
  const held = manager.allocateNPUMemory(4 * MiB)
  new Uint8Array(held).fill(7)
  manager.setMemoryLimits({ npu: { max: MiB } })
  assert.equal(refuses(() => manager.allocateNPUMemory(1), 'ERR_MEMORY_LIMIT').available, 0)
  assert.equal(manager.getNPUMemoryStats().available, 0)
  assert.equal(new Uint8Array(held)[4 * MiB - 1], 7)
  manager.deallocate(held)
  manager.allocateNPUMemory(MiB)
})

test("'warning' fires once per crossing, after the allocation, and a listener may do anything", async (t) => {
  const manager = open(t, {
    limits: { npu: { max: 100 * PAGE, warnAt: [0.5, 0.9] }, tags: { kv: { max: 50 * PAGE } } },
  })
  const heard = warnings(manager)
  const buffers = []
  const take = (pages, tag) => buffers.push(manager.allocateNPUMemory(pages * PAGE, { tag }))
  const drop = () => manager.deallocate(buffers.pop())
  take(49)
  assert.deepEqual(await heard(), [])
  take(1)
  assert.deepEqual(await heard(), ['npu 50'])
  take(1)
  drop()
  drop()
  take(2)
  assert.deepEqual(await heard(), [], 'not before it was left by 5 per cent')
  drop()
  drop()
  take(90)
  assert.deepEqual(await heard(), ['npu 90'], 'two levels at once are one warning')
  drop()
  take(48, 'kv')
  assert.deepEqual(await heard(), ['tag:kv 96'])
  drop()
  manager.once('warning', () => manager.dispose())
  take(95)
  await heard()
  assert.ok(manager.disposed)
})

test('a limit that is nearly reached when it is set warns at once', async (t) => {
  const manager = open(t)
  const heard = warnings(manager)
  manager.allocateSystemMemory(9 * PAGE)
  manager.setMemoryLimits({ system: { max: 10 * PAGE } })
  assert.deepEqual(await heard(), ['system 90'])
})

test('a pool near its maximum warns, on the fast path too', async (t) => {
  const manager = open(t)
  const heard = warnings(manager)
  const pool = manager.createMemoryPool({ name: 'kv', kind: 'system', initialSize: 64 * KiB, maxSize: 640 * KiB })
  const blocks = Array.from({ length: 7 }, () => pool.allocate(64 * KiB))
  assert.deepEqual(await heard(), [])
  blocks.push(pool.allocate(64 * KiB))
  assert.deepEqual(await heard(), ['pool:kv 80'])
  blocks.splice(0).forEach((block) => block.free())
  for (let i = 0; i < 10; i++) pool.allocateBuffer(64 * KiB)
  assert.deepEqual(await heard(), ['pool:kv 80', 'pool:kv 100'])
})

test('a domain that fills up warns', { skip: needsSimulated }, async (t) => {
  const manager = open(t, { simulated: { domainBytes: 64 * MiB, domains: 2 } })
  const heard = warnings(manager)
  manager.allocateNPUMemory(60 * MiB, { iommuDomain: 1 })
  assert.deepEqual(await heard(), ['domain:1 93'])
})

test(
  'a reservation is counted in limits, in its domain and in the statistics, and ends by release',
  { skip: needsSimulated },
  (t) => {
    const manager = open(t, { simulated: { domainBytes: 64 * MiB, domains: 2 }, limits: { npu: { max: 100 * MiB } } })
    const weights = manager.reserve(48 * MiB, { tag: 'weights', iommuDomain: 1 })
    assert.equal(weights.size, 48 * MiB)
    assert.equal(weights.released, false)
    assert.deepEqual(manager.getMemoryUsage().reservations, [{ tag: 'weights', kind: 'npu', size: 48 * MiB }])
    assert.deepEqual(manager.getNPUMemoryStats().domains[1], {
      id: 1,
      total: 64 * MiB,
      used: 0,
      reservedForOthers: 48 * MiB,
    })
    assert.equal(manager.getMemoryStats().npuUsed, 0)
    const full = refuses(() => manager.allocateNPUMemory(17 * MiB, { iommuDomain: 1 }), 'ERR_IOVA_EXHAUSTED')
    assert.deepEqual([full.available, full.scope], [16 * MiB, 'domain:1'])
    manager.allocateNPUMemory(48 * MiB)
    assert.equal(
      refuses(() => manager.allocateNPUMemory(5 * MiB, { iommuDomain: 1 }), 'ERR_MEMORY_LIMIT').available,
      4 * MiB,
    )
    weights.release()
    weights.release()
    assert.ok(weights.released)
    assert.deepEqual(manager.getMemoryUsage().reservations, [])
    manager.allocateNPUMemory(17 * MiB, { iommuDomain: 1 })
  },
)

test(
  'reservations end with `using` and with their manager, and not when dropped',
  { skip: needsDispose },
  (t) => {
    const manager = open(t, { limits: { system: { max: MiB } } })
    manager.reserve(MiB, { kind: 'system' })[Symbol.dispose]()
    const last = manager.reserve(MiB, { kind: 'system' })
    assert.ok(!last.released)
    manager.dispose()
    assert.ok(last.released)
    last.release()
    const { result, stderr } = runChild('dropped-reservation.mjs', {
      flags: ['--expose-gc'],
      args: [backend, device ?? ''],
    })
    assert.deepEqual([result, stderr], [{ reservations: [{ tag: 'weights', kind: 'npu', size: 4096 }] }, ''])
  },
)

test('an invalid reservation is refused', (t) => {
  const manager = open(t)
  for (const size of [0, -1, 1.5, NaN, Infinity, 2 ** 53])
    refuses(() => manager.reserve(size), 'ERR_OUT_OF_RANGE', size)
  for (const size of ['1', null, undefined, 1n]) refuses(() => manager.reserve(size), 'ERR_INVALID_ARG_TYPE', size)
  refuses(() => manager.reserve(1, { kind: 'cma' }), 'ERR_OUT_OF_RANGE')
  refuses(() => manager.reserve(1, { kind: 'system', iommuDomain: 0 }), 'ERR_OUT_OF_RANGE')
  refuses(() => manager.reserve(1, { iommuDomain: 4711 }), 'ERR_OUT_OF_RANGE')
  refuses(() => manager.reserve(2 ** 50, { kind: 'system' }), 'ERR_OUT_OF_RANGE')
  assert.match(refuses(() => manager.reserve(1, { domain: 0 }), 'ERR_INVALID_ARG_TYPE').hint, /iommuDomain/)
  assert.deepEqual(manager.getMemoryUsage().reservations, [])
  const held = manager.reserve(1)
  assert.throws(() => new held.constructor(), { code: 'ERR_INVALID_ARG_TYPE' })
})

test('invalid limits are refused, and nothing changes', (t) => {
  const manager = open(t, { limits: { npu: { max: MiB } } })
  const before = manager.getMemoryLimits()
  for (const [limits, code, message] of [
    [undefined, 'ERR_INVALID_ARG_TYPE', /limits/],
    [null, 'ERR_INVALID_ARG_TYPE', /null/],
    [{ npU: {} }, 'ERR_INVALID_ARG_TYPE', /"npU"/],
    [{ npu: MiB }, 'ERR_INVALID_ARG_TYPE', /npu/],
    [{ npu: { maximum: 1 } }, 'ERR_INVALID_ARG_TYPE', /"maximum"/],
    [{ npu: { max: '1' } }, 'ERR_INVALID_ARG_TYPE', /npu: max/],
    [{ total: { max: 1.5 } }, 'ERR_OUT_OF_RANGE', /total: max/],
    [{ system: { max: -1 } }, 'ERR_OUT_OF_RANGE', /system: max/],
    [{ npu: { max: 1, warnAt: 0.5 } }, 'ERR_INVALID_ARG_TYPE', /warnAt/],
    [{ npu: { max: 1, warnAt: ['0.5'] } }, 'ERR_INVALID_ARG_TYPE', /warnAt\[0\]/],
    [{ npu: { max: 1, warnAt: [0.5, 0] } }, 'ERR_OUT_OF_RANGE', /warnAt\[1\]/],
    [{ npu: { max: 1, warnAt: [NaN] } }, 'ERR_OUT_OF_RANGE', /NaN/],
    [{ npu: { max: 2 * MiB }, tags: { kv: { max: -1 } } }, 'ERR_OUT_OF_RANGE', /tags\["kv"\]: max/],
    [{ tags: [] }, 'ERR_INVALID_ARG_TYPE', /tags/],
  ]) {
    assert.match(refuses(() => manager.setMemoryLimits(limits), code, JSON.stringify(limits)).message, message)
    if (limits !== undefined) refuses(() => new MemoryManager({ backend, device, limits }), code)
  }
  assert.deepEqual(manager.getMemoryLimits(), before)
  manager.dispose()
  for (const call of [() => manager.setMemoryLimits({}), () => manager.getMemoryLimits(), () => manager.reserve(1)]) {
    refuses(call, 'ERR_MANAGER_DISPOSED')
  }
})
