/** Figures: counters by kind and tag, domains, and the kernel's figures of the machine and the process. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

import { closeDmaBuf } from '../../../index.js'
import {
  KiB, MiB, needsOwnKernel, needsSimulated, open, refuses, runtime, simulated, turnsUntil,
} from '../../support/helpers.mjs'

const COUNTERS = ['used', 'peak', 'liveAllocations', 'totalAllocations', 'totalFrees', 'failedAllocations']
const counters = (stats) => Object.fromEntries(COUNTERS.map((name) => [name, stats[name]]))

for (const [kind, allocate, getStats] of [
  ['npu', 'allocateNPUMemory', 'getNPUMemoryStats'],
  ['system', 'allocateSystemMemory', 'getSystemMemoryStats'],
]) {
  test(`counters of ${kind} memory: bytes in use, and their peak`, (t) => {
    const manager = open(t)
    const now = () => counters(manager[getStats]())
    const none = { used: 0, peak: 0, liveAllocations: 0, totalAllocations: 0, totalFrees: 0, failedAllocations: 0 }
    assert.deepEqual(now(), none)

    const small = manager[allocate](1)
    const { reservedSize } = manager.describe(small)
    assert.deepEqual(now(), {
      ...none,
      used: reservedSize,
      peak: reservedSize,
      liveAllocations: 1,
      totalAllocations: 1,
    })

    const large = manager[allocate](4 * MiB)
    const both = reservedSize + 4 * MiB
    manager.deallocate(large)
    assert.deepEqual(now(), {
      used: reservedSize, peak: both, liveAllocations: 1, totalAllocations: 2, totalFrees: 1, failedAllocations: 0,
    })

    refuses(() => manager[allocate](0), 'ERR_OUT_OF_RANGE')
    manager.deallocate(small)
    const { failedAllocations, ...end } = now()
    assert.deepEqual(end, { used: 0, peak: both, liveAllocations: 0, totalAllocations: 2, totalFrees: 2 })
    assert.ok(failedAllocations <= 1)
  })
}

test('getMemoryStats is the sum of the two', (t) => {
  const manager = open(t)
  manager.allocateNPUMemory(MiB)
  manager.allocateSystemMemory(2 * MiB)
  const [npu, system] = [manager.getNPUMemoryStats(), manager.getSystemMemoryStats()]
  const stats = manager.getMemoryStats()
  assert.deepEqual(
    [stats.npuUsed, stats.npuPeak, stats.systemUsed, stats.systemPeak, stats.liveAllocations],
    [npu.used, npu.peak, system.used, system.peak, 2],
  )
  assert.deepEqual([stats.poolReserved, stats.poolAllocated, stats.simulated], [0, 0, simulated])
  assert.ok(stats.npuTotal > 0 && stats.systemTotal > 0)
})

test('tags: counters of their own, both kinds together', (t) => {
  const manager = open(t)
  const kv = manager.allocateNPUMemory(8 * KiB, { tag: 'kv-cache' })
  manager.allocateSystemMemory(4 * KiB, { tag: 'kv-cache' })
  manager.allocateNPUMemory(4 * KiB, { tag: 'logits' })
  manager.allocateNPUMemory(4 * KiB)
  manager.deallocate(kv)
  const { tags } = manager.getMemoryUsage()
  assert.deepEqual(counters(tags['kv-cache']), {
    used: 4 * KiB, peak: 12 * KiB, liveAllocations: 1, totalAllocations: 2, totalFrees: 1, failedAllocations: 0,
  })
  assert.equal(tags.logits.used, 4 * KiB)
  assert.deepEqual(Object.keys(tags).sort(), ['kv-cache', 'logits'])
})

for (const tag of [
  '__proto__', 'constructor', 'toString', 'hasOwnProperty', '', ' ', '0', 'тег', '🧠', 'a\0b', '\ud800',
  'x'.repeat(10_000),
]) {
  test(`a tag may be any text: ${JSON.stringify(tag.slice(0, 20))}`, (t) => {
    const manager = open(t)
    const buffer = manager.allocateNPUMemory(4096, { tag })
    // A lone surrogate is no valid text and becomes the replacement character.
    const expected = tag.toWellFormed?.() ?? (tag === '\ud800' ? '\ufffd' : tag)
    assert.equal(manager.describe(buffer).tag, expected)
    const { tags } = manager.getMemoryUsage()
    assert.ok(Object.hasOwn(tags, expected))
    assert.equal(tags[expected].used, 4096)
    assert.deepEqual(Object.keys(tags), [expected])
  })
}

test('many tags do not grow without bound', (t) => {
  const manager = open(t)
  for (let i = 0; i < 3000; i++) manager.deallocate(manager.allocateSystemMemory(64, { tag: `request-${i}` }))
  assert.ok(Object.keys(manager.getMemoryUsage().tags).length <= 1100)
})

test('domains count the memory allocated in them', { skip: needsSimulated }, (t) => {
  const manager = open(t)
  manager.allocateNPUMemory(MiB, { iommuDomain: 3 })
  manager.allocateNPUMemory(2 * MiB, { iommuDomain: 15 })
  const { domains, used, objects } = manager.getNPUMemoryStats()
  assert.deepEqual(domains.map(({ id }) => id), Array.from({ length: 16 }, (_, i) => i))
  assert.ok(domains.every(({ total }) => total === 2 ** 32))
  assert.deepEqual(
    domains.filter((domain) => domain.used > 0).map((domain) => [domain.id, domain.used]),
    [
      [3, MiB],
      [15, 2 * MiB],
    ],
  )
  assert.equal(used, 3 * MiB)
  assert.equal(objects, 2)
})

test('total and available: the tightest limit', { skip: needsSimulated }, (t) => {
  const manager = open(t, { simulated: { domains: 2, domainBytes: 64 * MiB } })
  const before = manager.getNPUMemoryStats()
  assert.equal(before.total, Math.min(128 * MiB, totalmem()))
  manager.allocateNPUMemory(16 * MiB)
  const after = manager.getNPUMemoryStats()
  assert.ok(after.available <= before.available - 16 * MiB)
  assert.equal(after.limit, null)
  assert.equal(after.pendingFree, 0)
})

test('available is a number on every board, and never more than limits leave', { skip: needsSimulated }, (t) => {
  for (const soc of ['rk3588', 'rk3576', 'rk3562', 'rk3566', 'rk3568']) {
    const manager = open(t, { simulated: { soc } })
    const left = () => ['getNPUMemoryStats', 'getSystemMemoryStats'].map((stats) => manager[stats]().available)
    for (const available of left()) {
      assert.ok(Number.isSafeInteger(available) && available > 0, `${soc}: ${available}`)
      assert.ok(available <= totalmem(), soc)
    }
    manager.setMemoryLimits({ npu: { max: 3 * MiB }, system: { max: 2 * MiB } })
    assert.deepEqual(left(), [3 * MiB, 2 * MiB])
    const kept = [manager.allocateNPUMemory(MiB), manager.allocateSystemMemory(2 * MiB)]
    assert.deepEqual(left(), [2 * MiB, 0])
    kept.forEach((buffer) => manager.deallocate(buffer))
  }
})

test('the machine: meminfo', (t) => {
  const stats = open(t).getSystemMemoryStats()
  const meminfo = Object.fromEntries(
    [...readFileSync('/proc/meminfo', 'utf8').matchAll(/^(\w+):\s+(\d+) kB$/gm)].map(([, name, kib]) => [
      name,
      kib * KiB,
    ]),
  )
  assert.equal(stats.total, meminfo.MemTotal)
  assert.equal(stats.swapTotal, meminfo.SwapTotal)
  assert.ok(stats.swapFree >= 0 && stats.swapFree <= stats.swapTotal)
  assert.ok(stats.available > 0 && stats.available <= stats.total)
  assert.equal(stats.limit, null)
})

test('the process: rss, descriptors, mappings', { skip: needsOwnKernel }, (t) => {
  const manager = open(t)
  const { rss } = manager.getSystemMemoryStats()
  const own = process.memoryUsage.rss()
  assert.ok(rss > own / 2 && rss < own * 2, `${rss} against ${own}`)

  const usage = manager.getMemoryUsage().process
  const all = readdirSync('/proc/self/fd').length
  assert.ok(Math.abs(usage.openFds - all) <= 3, `${usage.openFds} against ${all}`)
  assert.ok(usage.maxFds >= usage.openFds)
  assert.ok(usage.maps > 10 && usage.maps < usage.maxMaps)
  assert.equal(usage.maxMaps, Number(readFileSync('/proc/sys/vm/max_map_count', 'utf8')))
  assert.ok(usage.heapUsed > 0 && usage.external > 0)
})

test('openFds follows opens and closes', async (t) => {
  const manager = open(t)
  const fdsNow = () => manager.getMemoryUsage().process.openFds
  // The kernel frees pressure triggers of earlier managers with a delay.
  await sleep(500)
  const buffer = manager.allocateNPUMemory(4096)
  const before = fdsNow()
  const fds = Array.from({ length: 10 }, () => manager.exportDmaBuf(buffer).fd)
  // A thread that reads a file of /proc has one more open for a moment.
  assert.ok(await turnsUntil(() => fdsNow() === before + 10), `${before} → ${fdsNow()}`)
  fds.forEach((fd) => closeDmaBuf(fd))
  assert.ok(await turnsUntil(() => fdsNow() === before), `${before} → ${fdsNow()}`)
})

test('cgroup and PSI: figures where the kernel has them, null where not', (t) => {
  const { cgroup, pressure, total } = open(t).getSystemMemoryStats()
  if (cgroup !== null) {
    assert.ok(cgroup.limit === null || cgroup.limit > 0)
    assert.ok(cgroup.current > 0 && cgroup.current <= total)
  }
  if (!existsSync('/proc/pressure/memory')) assert.equal(pressure, null)
  if (pressure !== null) {
    for (const share of [pressure.someAvg10, pressure.fullAvg10]) assert.ok(share >= 0 && share <= 100)
    assert.ok(pressure.fullAvg10 <= pressure.someAvg10 + 1e-9)
  }
})

/** The words that run a command where /proc is empty; undefined if this user may not mount. */
const WITHOUT_PROC = ['-m', '-rm']
  .map((flags) => ['unshare', flags, 'sh', '-c', 'mount -t tmpfs none /proc && exec "$0" "$@"'])
  .find(([name, ...words]) => spawnSync(name, [...words, 'true']).status === 0)
const mayHideProc = runtime === 'node' && WITHOUT_PROC !== undefined

test('without /proc figures of the process are null, and those of RAM what the kernel tells', {
  skip: mayHideProc ? false : 'needs Node, and leave to mount',
}, () => {
  const child = fileURLToPath(new URL('../../support/child/without-proc.mjs', import.meta.url))
  const [name, ...words] = WITHOUT_PROC
  const options = { encoding: 'utf8', env: { ...process.env, NODE_OPTIONS: '' } }
  const { stdout, stderr } = spawnSync(name, [...words, process.execPath, child], options)
  const { none, places, metrics, memory, machine } = JSON.parse(stdout || assert.fail(stderr))
  assert.deepEqual(new Set(Object.values(none)), new Set([null]), JSON.stringify(none))
  assert.deepEqual([...places, ...metrics], [])
  for (const figure of ['total', 'systemTotal', 'npuTotal'])
    assert.ok(memory[figure] > 0 && memory[figure] <= machine.total, `${figure} ${memory[figure]}`)
  for (const figure of ['available', 'npuAvailable'])
    assert.ok(memory[figure] > 0 && memory[figure] <= machine.total, `${figure} ${memory[figure]}`)
})

test('getMemoryUsage has every figure', (t) => {
  const manager = open(t)
  manager.allocateNPUMemory(4096)
  const usage = manager.getMemoryUsage()
  assert.deepEqual(Object.keys(usage).sort(), [
    'fragmentation', 'models', 'npu', 'pinned', 'pools', 'process', 'reservations', 'system', 'tags', 'total',
  ])
  assert.deepEqual([usage.pools, usage.reservations, usage.fragmentation], [[], [], 0])
  assert.deepEqual(counters(usage.npu), counters(manager.getNPUMemoryStats()))
  assert.deepEqual(counters(usage.system), counters(manager.getSystemMemoryStats()))
})

test('figures are numbers, never NaN; unknown ones are null', (t) => {
  const manager = open(t)
  for (const get of ['getMemoryStats', 'getNPUMemoryStats', 'getSystemMemoryStats', 'getMemoryUsage']) {
    JSON.stringify(manager[get](), (key, value) => {
      assert.notEqual(value, undefined, `${get}: ${key}`)
      if (typeof value === 'number') assert.ok(Number.isFinite(value) && value >= 0, `${get}: ${key} is ${value}`)
      return value
    })
  }
})

test('changes of returned objects do not change the accounting', (t) => {
  const manager = open(t)
  const stats = manager.getMemoryUsage()
  stats.npu.used = 99
  stats.tags.made = 'up'
  assert.equal(manager.getMemoryStats().npuUsed, 0)
  assert.deepEqual(manager.getMemoryUsage().tags, {})
  assert.throws(() => {
    'use strict'
    manager.device.soc = 'rk9999'
  }, TypeError)
})
