/**
 * Helpers of all test files. RKLLM_TEST_BACKEND and RKLLM_TEST_DEVICE choose the device under test; the default is the
 * simulated one.
 */

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { markAsUntransferable } from 'node:worker_threads'

import { MemoryError, MemoryManager } from '../../index.js'
import { fdsAtMost, openFds } from './child/open.mjs'

export { fdsAtMost, openFds }

export const backend = process.env.RKLLM_TEST_BACKEND ?? 'simulated'
export const device = process.env.RKLLM_TEST_DEVICE || undefined
export const simulated = backend === 'simulated'
/** The simulated device's caches: RKLLM_TEST_CACHES=incoherent, or incoherent:objects for syncs of whole objects. */
const [caches, cacheMaintenance] = (process.env.RKLLM_TEST_CACHES || undefined)?.split(':') ?? []
/** Whether the kernel shows the size of its CMA area, which bounds the memory of an NPU without an IOMMU. */
export const cmaIsShown = /^CmaTotal: +[1-9]/m.test(readFileSync('/proc/meminfo', 'utf8'))

export const KiB = 1024
export const MiB = 1024 * KiB
export const GiB = 1024 * MiB

const PIECE = (process.env.RKLLM_TEST_PIECE ?? '1/1').split('/').map(Number)

/** Returns the tests of this run: all, or with RKLLM_TEST_PIECE=2/5 the second of five pieces. */
export function inPiece(list) {
  const [piece, pieces] = PIECE
  return list.filter((_, at) => at % pieces === piece - 1)
}

/** Wraps `describe` for a suite that runs in pieces: skips the groups of other pieces. */
export function inPieces(describe) {
  let at = 0
  const [piece, pieces] = PIECE
  return (...group) => at++ % pieces === piece - 1 && describe(...group)
}

/** For node:test's `skip`: the reason, or false. */
export const needsSimulated = simulated ? false : `needs the simulated device; this run is on ${backend}`
/** For `skip`: QEMU's user-mode emulation invents figures of the process, and allocates pages at the first write. */
export const needsOwnKernel =
  process.env.RKLLM_TEST_EMULATION === 'user' ? 'needs the kernel to itself; this is user-mode emulation' : false
/** The runtime of the tests: "node", "bun" or "deno". */
export const runtime = ['bun', 'deno'].find((name) => process.versions[name] !== undefined) ?? 'node'

/** For `skip` on runtimes without the tested feature: `notOn({ deno: 'why' })`. */
export const notOn = (reasons) => (reasons[runtime] === undefined ? false : `not on ${runtime}: ${reasons[runtime]}`)

/** For `skip`: tests that use a descriptor of the library. */
export const needsForeignFds = notOn({ deno: 'its fs knows only descriptors that it opened itself' })

/** Whether markAsUntransferable prevents detaching (Node 24 and later). */
export const hasDetachKeys = (() => {
  const probe = new ArrayBuffer(8)
  markAsUntransferable(probe)
  try {
    probe.transfer?.()
    return false
  } catch {
    return true
  }
})()

export const needsTransfer =
  typeof ArrayBuffer.prototype.transfer === 'function'
    ? false
    : `Node ${process.version} has no ArrayBuffer.prototype.transfer`

/** For `skip`: a test machine may lack the command. */
export function needsCommand(name) {
  const found = (process.env.PATH ?? '').split(':').some((directory) => existsSync(`${directory}/${name}`))
  return found ? false : `needs the command "${name}"`
}

/**
 * Opens a manager on the device under test, and disposes it after the test. Slabs are off by default, so that tests can
 * count objects, descriptors and addresses; tests of slabs pass `slabs: {}`.
 */
export function open(t, options = {}) {
  const board = caches && { simulated: { caches, cacheMaintenance, ...options.simulated } }
  const manager = new MemoryManager({ backend, device, slabs: { threshold: 0 }, ...options, ...board })
  t.after(() => manager.dispose())
  return manager
}

/** The names of this process's threads that begin with `prefix`. */
export function threadsOf(prefix) {
  const names = readdirSync('/proc/self/task').map((id) => {
    try {
      return readFileSync(`/proc/self/task/${id}/comm`, 'utf8').trim()
    } catch {
      return '' // it has ended
    }
  })
  return names.filter((name) => name.startsWith(prefix))
}

/** Returns the number of such threads once it is at most `expected`, or after ten seconds. */
export function threadsAtMost(prefix, expected) {
  const clock = new Int32Array(new SharedArrayBuffer(4))
  for (let waited = 0; threadsOf(prefix).length > expected && waited < 1000; waited++) Atomics.wait(clock, 0, 0, 10)
  return threadsOf(prefix).length
}

/** Asserts that `promise` rejects with a MemoryError of that code and the matching JavaScript class. Returns it. */
export async function rejects(promise, code, what = code) {
  const error = await promise.then(
    () => assert.fail(`${what}: expected ${code}, but it was accepted`),
    (error) => error,
  )
  return refuses(
    () => {
      throw error
    },
    code,
    what,
  )
}

/** The options of a simulated device whose driver takes `latencyMs` for each call. */
export const slow = (latencyMs, options) => ({ simulated: { latencyMs, ...options } })

/** Asserts that `call` throws a MemoryError with that code and the matching JavaScript class. Returns the error. */
export function refuses(call, code, what = code) {
  let error
  try {
    call()
  } catch (thrown) {
    error = thrown
  }
  assert.ok(error, `${what}: expected ${code}, but it was accepted`)
  assert.equal(error.code, code, `${what}: expected ${code}, got ${error.stack}`)
  assert.ok(error instanceof MemoryError, `${what}: a ${error.constructor.name}, not a MemoryError`)
  assert.ok(error instanceof Error)
  assert.equal(error instanceof TypeError, code === 'ERR_INVALID_ARG_TYPE', `${what}: instanceof TypeError`)
  assert.equal(error instanceof RangeError, code === 'ERR_OUT_OF_RANGE', `${what}: instanceof RangeError`)
  return error
}

/** Waits until the driver has completed pending frees. */
export function settle(manager) {
  if (runtime === 'deno') {
    // Collects dropped buffers of earlier tests now: otherwise Deno's collector may do so between two counts.
    manager.optimizeMemory({ trim: false, defragment: false })
    return
  }
  // Other runtimes poll: optimizeMemory collects garbage, which is too slow for suites with a thousand calls.
  const clock = new Int32Array(new SharedArrayBuffer(4))
  for (let waited = 0; manager.getNPUMemoryStats().pendingFree > 0 && waited < 2000; waited++)
    Atomics.wait(clock, 0, 0, 1)
}

/** Returns the figures that a refused call must not change. */
export function ledger(manager) {
  settle(manager)
  const { liveAllocations, npuUsed, systemUsed } = manager.getMemoryStats()
  const { objects, domains } = manager.getNPUMemoryStats()
  // Managers of one real device share its domains; each simulated one has its own.
  const inDomains = simulated ? domains.map(({ used }) => used) : null
  return { liveAllocations, npuUsed, systemUsed, objects, inDomains, fds: openFds() }
}

/**
 * Asserts that a manager's figures are those of `before`, and that no descriptor was added: the thread of a manager
 * that was disposed earlier may close its files meanwhile.
 */
export function assertLedger(manager, { fds: fdsBefore, ...before }) {
  const { fds, ...after } = ledger(manager)
  assert.deepEqual(after, before)
  assert.ok(fds <= fdsBefore, `${fds} descriptors, ${fdsBefore} before`)
}

export function assertNothingLeft(manager) {
  const { liveAllocations, npuUsed, systemUsed } = manager.getMemoryStats()
  assert.deepEqual({ liveAllocations, npuUsed, systemUsed }, { liveAllocations: 0, npuUsed: 0, systemUsed: 0 })
}

/** Runs finalizers until `done()`; they follow the collection by some turns of the event loop. */
export async function turnsUntil(done, turns = 200) {
  for (let i = 0; i < turns && !done(); i++) await nextTurn()
  return done()
}

const CHILDREN = new URL('./child/', import.meta.url)

/** Runs __test__/support/child/<name> in its own process and returns the last JSON line of its output. */
export function runChild(name, { args = [], flags = [], env = {} } = {}) {
  const child = spawnSync(process.execPath, [...flags, fileURLToPath(new URL(name, CHILDREN)), ...args], {
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    maxBuffer: 16 * MiB,
  })
  assert.equal(child.signal, null, `${name} died of ${child.signal}\n${child.stderr}`)
  assert.equal(child.status, 0, `${name} exited with ${child.status}\n${child.stderr}\n${child.stdout}`)
  const result = JSON.parse(child.stdout.trim().split('\n').at(-1) || 'null')
  return { result, stderr: child.stderr }
}

/** Starts __test__/support/child/<name> with `fds` as its descriptors 3, 4, ...; resolves with its exit. */
export function startChild(name, { args = [], fds = [] } = {}) {
  const child = spawn(process.execPath, [fileURLToPath(new URL(name, CHILDREN)), ...args], {
    stdio: ['ignore', 'pipe', 'inherit', ...fds],
    env: { ...process.env, NODE_OPTIONS: '' },
  })
  let stdout = ''
  child.stdout.on('data', (chunk) => (stdout += chunk))
  return new Promise((resolve) => child.on('close', (status, signal) => resolve({ status, signal, stdout })))
}
