/**
 * File descriptors and mappings: 'warning' fires before the limit, once per crossing, and again only after a fall.
 */

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'

import { needsSimulated, open, runChild } from '../../support/helpers.mjs'

const { ProcessLimits } = createRequire(import.meta.url)('../../../src/js/limits/process-limits.js')

const maxMaps = Number(readFileSync('/proc/sys/vm/max_map_count', 'utf8'))

/** For `skip`: the reason against a test that fills a process with mappings. */
function needsFewMappings() {
  if (process.env.RKLLM_TEST_SCENARIO) return 'a hundred thousand buffers are too many for an emulated machine'
  return maxMaps > 100_000 ? `vm.max_map_count is ${maxMaps}: too many to fill` : false
}

function makeLimits(figures) {
  const warnings = []
  let counts = 0
  const count = () => (counts++, ['openFds', 'maxFds', 'maps', 'maxMaps'].map((name) => figures[name] ?? NaN))
  const limits = new ProcessLimits(count, (warning) => warnings.push(warning))
  return {
    limits,
    warnings,
    counts: () => counts,
    allocate: (times) => {
      for (let i = 0; i < times; i++) limits.allocated()
    },
  }
}

test('a crossing upwards warns once; a step back below it arms it again', () => {
  const figures = { openFds: 100, maxFds: 1000 }
  const { warnings, allocate } = makeLimits(figures)
  const at = (openFds) => {
    figures.openFds = openFds
    allocate(4096)
    return warnings.splice(0).map(({ scope, ratio }) => `${scope} ${ratio}`)
  }
  assert.deepEqual(at(699), [])
  assert.deepEqual(at(700), ['fds 0.7'])
  assert.deepEqual(at(710), [])
  assert.deepEqual(at(690), [], 'not yet left')
  assert.deepEqual(at(700), [])
  assert.deepEqual(at(950), ['fds 0.95'])
  assert.deepEqual(at(800), [])
  assert.deepEqual(at(900), ['fds 0.9'])
  assert.deepEqual(at(100), [])
  assert.deepEqual(at(1000), ['fds 1'])
})

test('figures far below a limit are not counted at every allocation', () => {
  const { counts, allocate } = makeLimits({ openFds: 20, maxFds: 1_000_000, maps: 100, maxMaps: 65_530 })
  allocate(10_000)
  assert.ok(counts() <= 4, `${counts()} counts for 10,000 allocations`)
})

test('unknown figures cause no warning', () => {
  const { warnings, allocate } = makeLimits({})
  allocate(10_000)
  assert.deepEqual(warnings, [])
})

test('a process that uses up its descriptors is warned at 70 and at 90 per cent', { skip: needsSimulated }, () => {
  const { result } = runChild('few-warnings.mjs')
  assert.deepEqual(result.scopes, ['fds', 'fds'])
  assert.ok(result.ratios[0] >= 0.7 && result.ratios[0] < 0.9, `${result.ratios}`)
  assert.ok(result.ratios[1] >= 0.9, `${result.ratios}`)
  assert.match(result.message, /RLIMIT_NOFILE/)
  assert.equal(result.code, 'ERR_TOO_MANY_FDS')
})

test(
  'a process that uses up its mappings is warned at 70 and at 90 per cent',
  { skip: needsSimulated || needsFewMappings() },
  () => {
    const { result } = runChild('many-maps.mjs')
    const [early, first, second] = result.told
    assert.deepEqual(early, [])
    for (const [told, least, below] of [
      [first, 0.7, 0.9],
      [second, 0.9, 1],
    ]) {
      assert.deepEqual(
        told.map(({ scope }) => scope),
        ['maps'],
      )
      const [{ used, max, ratio, message }] = told
      assert.ok(ratio >= least && ratio < below, `${ratio}`)
      assert.deepEqual([max, ratio], [maxMaps, used / max])
      assert.match(message, /max_map_count/)
    }
  },
)

test('a listener is not called inside an allocation', { skip: needsSimulated }, async (t) => {
  const manager = open(t)
  let inside = false
  manager.on('warning', () => assert.equal(inside, false))
  inside = true
  const buffers = Array.from({ length: 200 }, () => manager.allocateNPUMemory(4096))
  inside = false
  await nextTurn()
  buffers.forEach((buffer) => manager.deallocate(buffer))
})
