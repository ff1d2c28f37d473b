/** Chapters that load at their first use. */

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'

import memory from '../../../index.js'
import { runChild, runtime } from '../../support/helpers.mjs'

const require = createRequire(import.meta.url)

/** The rooms of which an allocation needs no file, and the single files of others that it needs. */
const CHAPTERS = ['cli', 'devices', 'explain', 'inference', 'inspect', 'metrics', 'models', 'pools', 'profiling',
  'replay', 'report', 'rknn', 'sharing', 'stats']
const NEEDED = ['devices/simulated-npu.js', 'metrics/reader.js', 'pools/pool-registry.js']
/** The modules of `require`, among them index.js, package.json and the native part. */
const MOST = 42

test('require loads the modules that allocateNPUMemory needs', () => {
  const { required, allocated, pooled } = runChild('modules.mjs').result
  const names = required.map((path) => path.replace(/^src\/js\//, ''))
  assert.ok(names.includes('manager.js'), String(names))
  assert.deepEqual(
    names.filter((name) => CHAPTERS.includes(name.split('/')[0]) && !NEEDED.includes(name)),
    [],
  )
  assert.ok(required.length <= MOST, `${required.length} modules: ${required.join(' ')}`)
  assert.deepEqual(allocated, required, 'the first allocation loads none')
  const added = pooled.filter((path) => !allocated.includes(path))
  assert.ok(added.length > 0)
  for (const path of added) assert.match(path, /^src\/js\/(pools|core)\//)
})

test('every export is listed before its chapter is loaded', () => {
  assert.deepEqual(runChild('modules.mjs').result.keys, Object.keys(memory))
})

/** Function → the module that has it. */
const MODULES = {
  closeDmaBuf: 'sharing/inbox.js',
  diagnose: 'devices/diagnose.js',
  diffSnapshots: 'report/diff.js',
  estimateModelMemory: 'models/estimate.js',
  explainAll: 'explain/explain.js',
  explainError: 'explain/explain.js',
  measureModel: 'models/measure.js',
  planArena: 'arena/plan-arena.js',
  planModels: 'models/plan.js',
  probeDevices: 'devices/probe.js',
  replayEventLog: 'replay/replay.js',
  runtimeVersion: 'inference/runtime-version.js',
  runtimeVersionAsync: 'inference/runtime-version.js',
  sendDmaBuf: 'sharing/inbox.js',
  unpinDropped: 'pools/unpin-dropped.js',
}

test('a function has the name and the length of the one that it loads', () => {
  const functions = Object.entries(memory).filter(([, value]) => !/^class /.test(String(value)))
  assert.deepEqual(functions.map(([name]) => name).sort(), Object.keys(MODULES))
  for (const [name, { length, name: own }] of functions) {
    const loaded = require(`../../../src/js/${MODULES[name]}`)[name]
    assert.deepEqual({ own, length }, { own: name, length: loaded.length }, name)
  }
})

test('chapters load when the process is out of descriptors', () => {
  const { result } = runChild('loads-without-descriptors.mjs')
  assert.deepEqual(result, {
    explainError: 'ERR_TOO_MANY_FDS', getMemoryUsage: 4096, metrics: true, takeSnapshot: 1, getMemoryProfile: false,
    MemoryPool: 'MemoryPool', estimateModelMemory: 'ERR_TOO_MANY_FDS',
  })
})

test('a chapter that cannot be loaded is a MemoryError, and is tried again at the next call', () => {
  const { result } = runChild('missing-chapter.mjs')
  for (const [use, { missing, cut }] of Object.entries(result)) {
    assert.ok(missing.isMemoryError && cut.isMemoryError, `${use}: ${JSON.stringify({ missing, cut })}`)
    assert.equal(cut.code, 'ERR_UNSUPPORTED', use)
    // Bun reports a file that its cache of folders still lists as one that it cannot parse.
    assert.ok(['ERR_DEVICE_IO', ...(runtime === 'bun' ? ['ERR_UNSUPPORTED'] : [])].includes(missing.code), use)
    for (const { message, hint } of [missing, cut]) {
      assert.match(message, /^a part of @rkllmjs\/memory cannot be loaded: /)
      assert.match(hint, /install the package again/)
    }
  }
  const back = Object.entries(result).map(([use, outcomes]) => [use, outcomes.back.result])
  assert.deepEqual(Object.fromEntries(back), { function: null, class: 'MemoryPool', method: 'simulated' })
})
