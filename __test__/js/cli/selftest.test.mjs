/** `rkllm-memory selftest`: on the device under test; on managers with a fault; in a process that dies or hangs. */

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once as onceEmitted } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

import library, { MemoryError, MemoryManager, probeDevices } from '../../../index.js'
import checks from '../../../src/js/cli/selftest/checks.js'
import runner from '../../../src/js/cli/selftest/run.js'
import { command, STATUS } from '../../support/command.mjs'
import { fdsAtMost, open, openFiles } from '../../support/child/open.mjs'
import { backend, needsSimulated, simulated } from '../../support/helpers.mjs'

const { CHECKS, runCheck } = checks
const folder = mkdtempSync(join(tmpdir(), 'rkllm-selftest-'))
after(() => rmSync(folder, { recursive: true }))
const hasNpu = probeDevices().some((one) => !['dma-heap', 'simulated'].includes(one.backend))

test('on the device under test all checks pass, and one file has the results', async (t) => {
  const file = join(folder, 'result.json')
  // Opens what stays: a descriptor in reserve of the first manager, and one of libuv's first stream.
  open().dispose()
  await onceEmitted(spawn('true'), 'close')
  const before = openFiles()
  const temporary = join(folder, 'temporary')
  mkdirSync(temporary)
  const { TMPDIR } = process.env
  t.after(() => {
    if (TMPDIR === undefined) delete process.env.TMPDIR
    else process.env.TMPDIR = TMPDIR
  })
  process.env.TMPDIR = temporary
  const words = ['selftest', '--device', backend, '--seconds', '1', '--output', file]
  const { status, stdout, stderr } = await command(words)
  assert.deepEqual([status, stderr], [STATUS.ok, ''], stdout)
  const report = JSON.parse(readFileSync(file, 'utf8'))
  assert.deepEqual(report.results.map(({ id }) => id), CHECKS.map(({ id }) => id))
  for (const { id, status: outcome, message } of report.results)
    assert.ok(['passed', 'unsupported'].includes(outcome), `${id}: ${message}`)
  assert.equal(report.verdict, 'passed')
  assert.equal(report.simulated, simulated)
  assert.equal(report.device.backend, backend)
  assert.deepEqual(report.package, { version: MemoryManager.version, buildInfo: MemoryManager.buildInfo })
  assert.ok(report.diagnosis.findings.length > 10)
  assert.equal((stdout.match(/SIMULATED DEVICE/g) ?? []).length, simulated ? 2 : 0)
  assert.match(stdout, /^written: .*result\.json$/m)
  assert.ok(fdsAtMost(before.length) <= before.length, `before: ${before.join()}; after: ${openFiles().join()}`)
  assert.deepEqual(readdirSync(temporary), [], 'no temporary file is left')
})

test('--json writes no file; --output beside it, and a folder that is not there, are refused first', async () => {
  const both = await command(['selftest', '--json', '--output', 'x.json'])
  assert.equal(both.status, STATUS.usage)
  const lost = await command(['selftest', '--device', 'simulated', '--output', join(folder, 'none', 'x.json')])
  assert.equal(lost.status, STATUS.broken)
  assert.match(lost.stderr, /ENOENT/)
  assert.doesNotMatch(lost.stdout, /^ok/m)
})

test('without an NPU it says so, and never takes the simulated device by itself', { skip: hasNpu }, async () => {
  const { status, stdout, stderr } = await command(['selftest'])
  assert.deepEqual([status, stdout], [STATUS.broken, ''])
  assert.match(stderr, /there is no NPU here\n.*--device simulated/)
})

// ── faults, and the process of the checks: the same on every device, so that one run is enough

const once = { skip: needsSimulated }

/** Makes a library whose managers have a fault: `faults` replaces methods, and gets the right ones as `right`. */
function faulty(faults) {
  class Faulty extends MemoryManager {}
  for (const [name, make] of Object.entries(faults)) {
    Faulty.prototype[name] = function (...args) {
      return make.call(this, (...given) => MemoryManager.prototype[name].apply(this, given), ...args)
    }
  }
  return { ...library, MemoryManager: Faulty }
}

const other = new WeakMap()
const FAULTS = {
  'syncToDevice does nothing': [['sync', 'sync-ranges'], { syncToDevice() {} }],
  'syncToDevice leaves out the last line': [
    ['sync-ranges'],
    {
      syncToDevice(right, buffer, offset = 0, length = buffer.byteLength - offset) {
        if (length > 64) right(buffer, offset, length - 64)
      },
    },
  ],
  'syncToDevice takes the offset for that of the buffer': [
    ['sync-ranges'],
    { syncToDevice: (right, buffer, offset, length) => right(buffer, 0, length) },
  ],
  'syncFromDevice drops a neighbour, too': [
    ['sync-neighbours'],
    {
      syncFromDevice(right, buffer, ...range) {
        right(buffer, ...range)
        const neighbour = other.get(this)
        if (neighbour !== undefined && neighbour !== buffer && neighbour.byteLength > 0)
          new Uint8Array(neighbour).fill(0)
      },
      allocateNPUMemory(right, ...args) {
        const buffer = right(...args)
        other.set(this, buffer)
        return buffer
      },
    },
  ],
  'memory is not cleared': [
    ['sizes'],
    {
      allocateNPUMemory(right, ...args) {
        const buffer = right(...args)
        new Uint8Array(buffer)[buffer.byteLength - 1] = 1
        return buffer
      },
    },
  ],
  'two buffers share bytes': [
    ['sizes', 'many'],
    {
      allocateNPUMemory(right, size, options) {
        const before = other.get(this)
        if (before?.byteLength > 0) new Uint8Array(before)[0] ^= 0xff
        const buffer = right(size, options)
        other.set(this, buffer)
        return buffer
      },
    },
  ],
  'a second free is not refused': [
    ['refusals'],
    {
      deallocate(right, buffer) {
        try {
          right(buffer)
        } catch (error) {
          if (error.code !== 'ERR_BUFFER_FREED') throw error
        }
      },
    },
  ],
  'a limit is not kept': [['limits'], { setMemoryLimits() {} }],
  'a limit comes too early': [
    ['limits'],
    { setMemoryLimits: (right, { npu }) => right({ npu: { max: npu.max === null ? null : npu.max / 2 } }) },
  ],
  'a free does nothing': [['many', 'soak'], { deallocate() {} }],
  'an export is of other memory': [
    ['dma-buf'],
    {
      exportDmaBuf(right, buffer) {
        return right(this.allocateNPUMemory(buffer.byteLength, { dedicated: true }))
      },
    },
  ],
}

const OPENING = { backend: 'simulated', simulated: { caches: 'incoherent' }, seconds: 1 }
for (const [fault, [ids, faults]] of Object.entries(FAULTS)) {
  test(`a fault is found: ${fault}`, once, async () => {
    for (const id of ids) {
      const result = await runCheck(CHECKS.find((check) => check.id === id), faulty(faults), OPENING)
      assert.equal(result.status, 'failed', `${id} does not find it: ${JSON.stringify(result)}`)
      assert.ok(result.message.length > 10)
    }
  })
}

test('an error of the device is a result with its code', once, async () => {
  const broken = faulty({
    syncToDevice() {
      throw new MemoryError('the driver said EIO', { code: 'ERR_DEVICE_IO' })
    },
  })
  const { status, code, message } = await runCheck(CHECKS.find(({ id }) => id === 'sync'), broken, OPENING)
  assert.deepEqual([status, code, message], ['failed', 'ERR_DEVICE_IO', 'the driver said EIO'])
})

test('a device without an operation is no failure', once, async () => {
  const poor = faulty({
    exportDmaBuf() {
      throw new MemoryError('this driver exports nothing', { code: 'ERR_UNSUPPORTED' })
    },
  })
  const { status, message } = await runCheck(CHECKS.find(({ id }) => id === 'dma-buf'), poor, OPENING)
  assert.deepEqual({ status, message }, { status: 'unsupported', message: 'this driver exports nothing' })
})

/** Runs a program in place of the process of the checks. */
function runProgram(name, source, limitMs = 60_000) {
  const program = join(folder, name)
  writeFileSync(program, source)
  return runner.runChecks({ opening: { backend: 'simulated' }, seconds: 1 }, { limitMs, program })
}

test('a process that dies costs the check that ran; the others are named as not run', once, async () => {
  const results = await runProgram('dies.cjs', `
    process.once('message', () => {
      process.send({ started: 'sizes' })
      process.send({ result: { id: 'sizes', title: 't', status: 'passed' } })
      process.send({ started: 'many' }, () => process.kill(process.pid, 'SIGBUS'))
    })`)
  assert.equal(results.length, CHECKS.length)
  const [first, second, ...rest] = results
  assert.equal(first.status, 'passed')
  assert.deepEqual([second.id, second.status], ['many', 'failed'])
  assert.match(second.message, /ended with SIGBUS/)
  for (const { status } of rest) assert.equal(status, 'not run')
})

test('a process that does not start says why', once, async () => {
  const [first] = await runProgram('throws.cjs', "throw new Error('no native part')")
  assert.equal(first.status, 'failed')
  assert.match(first.message, /ended with status 1: .*no native part/)
})

test('a process that hangs is ended, and the results so far are kept', once, async () => {
  const results = await runProgram('hangs.cjs', `
    process.once('message', () => process.send({ started: 'sizes' }, () => { for (;;); }))`, 3000)
  assert.deepEqual([results[0].id, results[0].status], ['sizes', 'failed'])
  assert.match(results[0].message, /not ready after 3 s/)
  assert.equal(results.length, CHECKS.length)
})
