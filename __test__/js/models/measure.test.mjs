/** measureModel, the calibration file, and estimates that use it. */

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { estimateModelMemory, measureModel, planModels } from '../../../index.js'
import { command, STATUS } from '../../support/command.mjs'
import { GiB, MiB, needsCommand, notOn, refuses, rejects } from '../../support/helpers.mjs'

const { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } = fs
const { statSync, symlinkSync, truncateSync, writeFileSync } = fs
const require = createRequire(import.meta.url)
const { readCalibration, saveMeasurement } = require('../../../src/js/models/calibration.js')
const { measure } = require('../../../src/js/models/measure.js')
const { driverMemory, machineMemory, sampleOf } = require('../../../src/js/models/process-memory.js')
const { makeReader } = require('../../../src/js/devices/doctor/reader.js')
const LOADS = fileURLToPath(new URL('../../support/child/loads-model.mjs', import.meta.url))
const needsEval = notOn({ deno: 'its eval has no require' })
const flags = process.versions.deno === undefined ? [] : ['run', '--allow-all']

function folderOf(t) {
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-measure-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const model = join(folder, 'qwen.rkllm')
  writeFileSync(model, Buffer.alloc(4096, 1))
  truncateSync(model, 4 * MiB)
  return { folder, model, calibration: join(folder, 'state', 'models.json') }
}

/** Whether a process is gone, or waits for its parent only. */
function hasEnded(pid) {
  try {
    return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return true
  }
}

async function until(done) {
  for (let tries = 0; tries < 200 && !done(); tries++) await new Promise((resolve) => setTimeout(resolve, 50))
  return done()
}

/** Measures a program that takes `bytes`. */
const measured = (model, calibration, bytes, more = {}, ...what) =>
  measureModel({
    command: process.execPath,
    args: [...flags, LOADS, String(bytes), ...what],
    model,
    calibration,
    until: /init success/,
    ...more,
  })

test('a program that takes known bytes: they are found, stored, and what estimates say', async (t) => {
  const { folder, model, calibration } = folderOf(t)
  const none = await measured(model, false, MiB)
  assert.deepEqual([none.calibration, existsSync(calibration)], [null, false])
  const found = await measured(model, calibration, 256 * MiB, { contextLength: 4096 })
  const grown = found.footprint - none.footprint
  assert.ok(grown > 235 * MiB && grown < 285 * MiB, `${grown / MiB} MiB more`)
  assert.ok(found.anonymous >= 256 * MiB && found.peak >= found.footprint && found.processes >= 1)
  assert.deepEqual([found.runtime, found.driver, found.contextLength], ['1.2.3', '0.9.8', 4096])
  assert.equal(found.calibration, calibration)

  const spec = { path: model, contextLength: 4096, calibration }
  const estimate = estimateModelMemory(spec)
  assert.equal(estimate.basis, 'measured-here')
  assert.equal(estimate.loaded, found.footprint)
  assert.ok(estimate.loadedUncertainty <= 0.01)
  assert.equal(estimate.total, estimate.npuTotal + estimate.hostBuffers)
  assert.match(estimate.measured[0], /measured here on \d{4}-\d\d-\d\d, runtime 1\.2\.3, driver 0\.9\.8/)
  // The contents of the file find it, wherever it is.
  const copy = join(folder, 'moved.rkllm')
  copyFileSync(model, copy)
  assert.equal(estimateModelMemory({ ...spec, path: copy }).basis, 'measured-here')
  // Other runtimes, other files and a file that is left out are not measured.
  for (const other of [{ runtime: '1.1.4' }, { calibration: false }, { calibration: join(folder, 'none.json') }])
    assert.equal(estimateModelMemory({ ...spec, ...other }).basis, 'arithmetic', JSON.stringify(other))
  assert.equal(estimateModelMemory({ ...spec, runtime: 'v1.2.3' }).basis, 'measured-here')
  assert.match(estimateModelMemory({ ...spec, contextLength: 512 }).warnings.join(), /context of 4096/)
  const device = {
    backend: 'rknpu', simulated: false, path: null, soc: 'rk3588', driverVersion: '0.9.8', npuCores: 3, iommu: true,
    iommuDomains: 16, domainBytes: 4 * GiB, sramTotal: 0, sramFree: 0,
  }
  assert.equal(planModels([{ name: 'a', ...spec }], device).estimates.a.basis, 'measured-here')
})

test('a measurement of the same model, runtime, driver and context takes the place of the older', async (t) => {
  const { model, calibration } = folderOf(t)
  const first = await measured(model, calibration, 64 * MiB)
  const again = await measured(model, calibration, 64 * MiB)
  assert.equal(readCalibration(calibration).length, 1)
  assert.equal(readCalibration(calibration)[0].at, again.at)
  assert.ok(Math.abs(again.footprint / first.footprint - 1) < 0.1)
  await measured(model, calibration, 64 * MiB, { contextLength: 512 })
  await measured(model, calibration, 64 * MiB, { runtime: 'v1.1.4' })
  assert.deepEqual(readCalibration(calibration).map(({ runtime }) => runtime), ['1.1.4', '1.2.3', '1.2.3'])
  assert.equal(statSync(calibration).mode & 0o777, 0o600)
  assert.deepEqual(readdirSync(dirname(calibration)), ['models.json'], 'no drafts are left')
})

/** Saves `count` measurements of models of their own, one after another. */
const SAVES = `
const { saveMeasurement } = require(process.argv[1])
const [file, name, count] = process.argv.slice(2)
const main = async () => {
  const figures = { footprint: 1, resident: 1, npu: 0, dmaBufs: 0, at: 1, runtime: null, driver: null }
  for (let i = 0; i < Number(count); i++) await saveMeasurement(file, { ...figures, fingerprint: name + '-' + i })
}
main()`

test('measurements of several processes that end at once all stay', { skip: needsEval }, async (t) => {
  const { calibration } = folderOf(t)
  const file = fileURLToPath(new URL('../../../src/js/models/calibration.js', import.meta.url))
  const children = ['a', 'b', 'c', 'd'].map((name) =>
    spawn(process.execPath, ['-e', SAVES, file, calibration, name, '25'], { stdio: ['ignore', 'ignore', 'inherit'] }),
  )
  const statuses = children.map((child) => new Promise((resolve) => child.on('exit', resolve)))
  assert.deepEqual(await Promise.all(statuses), [0, 0, 0, 0])
  assert.equal(new Set(readCalibration(calibration).map(({ fingerprint }) => fingerprint)).size, 100)
  assert.deepEqual(readdirSync(dirname(calibration)), ['models.json'])
})

test('the lock of a process that was killed is taken over, and one that cannot be made is an error', async (t) => {
  const { folder, calibration } = folderOf(t)
  const figures = { footprint: 1, resident: 1, npu: 0, dmaBufs: 0, at: 1, runtime: null, driver: null }
  mkdirSync(dirname(calibration))
  for (const seconds of [-3600, 3600]) {
    writeFileSync(`${calibration}.lock`, '')
    const then = Date.now() / 1000 + seconds
    fs.utimesSync(`${calibration}.lock`, then, then)
    await saveMeasurement(calibration, { ...figures, fingerprint: String(seconds) })
  }
  assert.equal(readCalibration(calibration).length, 2)
  assert.deepEqual(readdirSync(dirname(calibration)), ['models.json'])
  const below = join(folder, 'qwen.rkllm', 'models.json')
  await rejects(saveMeasurement(below, { ...figures, fingerprint: 'x' }), 'ERR_DEVICE_IO')
})

test('children count, and are ended with the command', async (t) => {
  const { model } = folderOf(t)
  let output = ''
  const args = [...flags, LOADS, String(128 * MiB), 'child']
  const start = { command: process.execPath, args, model, calibration: false, until: /init success/ }
  const found = await measure(start, { onOutput: (text) => (output += text) })
  assert.ok(found.processes >= 2)
  assert.ok(found.anonymous >= 128 * MiB)
  const pids = [...output.matchAll(/^process (\d+)$/gm)].map(([, pid]) => Number(pid))
  assert.equal(pids.length, 2, output)
  for (const pid of pids) assert.ok(await until(() => hasEnded(pid)), `${pid} runs`)
})

test('a command that ends by itself is measured at its largest', async (t) => {
  const { model } = folderOf(t)
  const found = await measured(model, false, 128 * MiB, { until: undefined }, 'end')
  assert.ok(found.footprint >= 128 * MiB)
  const timed = await measured(model, false, 64 * MiB, { until: 1200 })
  assert.ok(timed.footprint > 0)
})

test('without a sign a model is loaded when its memory has stopped to grow', async (t) => {
  const { model } = folderOf(t)
  const args = [...flags, LOADS, String(128 * MiB)]
  const start = { command: process.execPath, args, model, calibration: false }
  // A slow machine may pause before it has taken all.
  const found = await measure(start, { steadyMs: 2500 })
  assert.ok(found.footprint > MiB && found.peak >= found.footprint)
})

test('the command line shows the output of the command without escapes for the terminal', async (t) => {
  const { model } = folderOf(t)
  const output = '\x1b]0;gone\x07\x9b31m\x1b[31mloading 1\rloading 2\r\n\ufdd4init success\n'
  const script = `process.stderr.write(${JSON.stringify(output)})
    setTimeout(() => {}, 60_000)`
  const program = process.versions.deno === undefined ? [process.execPath, '-e'] : [process.execPath, 'eval']
  const words = ['measure', '--model', model, '--calibration', 'none', '--until', 'init success', '--', ...program]
  const { status, stderr } = await command([...words, script])
  assert.equal(status, STATUS.ok, stderr)
  assert.match(stderr, /loading 1\nloading 2\n\ufdd4init success\n$/)
  assert.doesNotMatch(stderr, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/)
})

test('an interrupted command line ends the command that it measures', async (t) => {
  const { model } = folderOf(t)
  const cli = fileURLToPath(new URL('../../../src/js/cli/main.js', import.meta.url))
  const loads = [process.execPath, ...flags, LOADS, String(MiB)]
  const options = ['--model', model, '--calibration', 'none', '--until', 'never']
  const words = [...flags, cli, 'measure', ...options, '--', ...loads]
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'ignore', 'pipe'] })
  let output = ''
  const loaded = new Promise((resolve) =>
    child.stderr.on('data', (data) => /init success/.test((output += data)) && resolve()),
  )
  const ended = new Promise((resolve) => child.on('exit', resolve))
  await loaded
  child.kill('SIGTERM')
  // Deno ends by the signal itself once the listener is gone.
  assert.ok([STATUS.broken, null].includes(await ended), output)
  assert.match(output, /the measurement was interrupted/)
  const [, pid] = /^process (\d+)$/m.exec(output)
  assert.ok(await until(() => hasEnded(pid)), `${pid} runs`)
})

test('a command that fails, does not exist, or is aborted', async (t) => {
  const { model, calibration } = folderOf(t)
  await assert.rejects(measured(model, calibration, MiB, {}, 'fail'), (error) => {
    assert.equal(error.code, 'ERR_DEVICE_IO')
    assert.match(error.message, /ended with status 3 before the model was loaded.*failed to malloc npu memory/)
    assert.ok(error.hint)
    return true
  })
  await rejects(measured(model, calibration, MiB, { until: /never/ }, 'end'), 'ERR_DEVICE_IO')
  await rejects(measureModel({ command: join(dirname(model), 'nothing'), model, calibration }), 'ERR_DEVICE_IO')
  assert.equal(existsSync(calibration), false, 'no figures are stored')
  const reason = new Error('enough')
  const signal = AbortSignal.abort(reason)
  await assert.rejects(measureModel({ command: 'sleep', args: ['60'], model }, { signal }), reason)
  const controller = new AbortController()
  const start = { command: process.execPath, args: [...flags, LOADS, '1'], model, calibration }
  const running = measureModel(start, { signal: controller.signal })
  setTimeout(() => controller.abort(reason), 300)
  await assert.rejects(running, reason)
})

/** Takes all descriptors but one, which the model's file needs, and measures. */
const WITHOUT_DESCRIPTORS = `
const { measureModel } = require(process.argv[1])
const { closeSync, openSync } = require('node:fs')
const start = { command: 'true', model: process.argv[2], until: 1, calibration: false }
const measured = () => measureModel(start).then(() => 'measured', (error) => error.code)
const main = async () => {
  await measured() // loads all modules
  const held = []
  try { for (;;) held.push(openSync('/dev/null')) } catch {}
  const codes = [await measured()]
  closeSync(held.pop())
  console.log([...codes, await measured()].join())
}
main()`

const needsNode = notOn({ bun: 'it needs more descriptors', deno: 'it needs more descriptors' })
test('a process without descriptors says so, and goes on', { skip: needsNode || needsCommand('bash') }, (t) => {
  const { model } = folderOf(t)
  const index = fileURLToPath(new URL('../../../index.js', import.meta.url))
  const words = [process.execPath, '-e', WITHOUT_DESCRIPTORS, index, model]
  const child = spawnSync('bash', ['-c', 'ulimit -n 64; exec "$0" "$@"', ...words], { encoding: 'utf8' })
  assert.equal(child.stdout, 'ERR_TOO_MANY_FDS,ERR_TOO_MANY_FDS\n', child.stderr)
})

test('wrong arguments', async (t) => {
  const { model } = folderOf(t)
  for (const start of [
    undefined, null, 1, {}, { command: 'true' }, { model }, { command: 1, model },
    { command: 'true', model, args: [1] },
    { command: 'true', model, env: { A: 1 } },
    { command: 'true', model, until: 'text' },
    { command: 'true', model, unitl: /x/ }, { command: 'true', model, calibration: true },
  ])
    await rejects(measureModel(start), 'ERR_INVALID_ARG_TYPE')
  for (const more of [{ until: 0 }, { until: NaN }, { contextLength: 0 }, { runtime: 'new' }])
    await rejects(measureModel({ command: 'true', model, ...more }), 'ERR_OUT_OF_RANGE')
  await rejects(measureModel({ command: 'true', model }, { signal: 1 }), 'ERR_INVALID_ARG_TYPE')
  await rejects(measureModel({ command: 'true', model: '/nowhere.rkllm' }), 'ERR_DEVICE_IO')
})

test('the default file: in XDG_STATE_HOME, else in the home; one that may not be read has no measurements', (t) => {
  const { folder, model } = folderOf(t)
  const { defaultFile } = require('../../../src/js/models/calibration.js')
  assert.equal(defaultFile({ XDG_STATE_HOME: folder }), join(folder, 'rkllm-memory/models.json'))
  assert.match(defaultFile({ XDG_STATE_HOME: 'relative' }), /^\/.*\.local\/state\/rkllm-memory\/models\.json$/)
  const before = process.env.XDG_STATE_HOME
  t.after(() => (before === undefined ? delete process.env.XDG_STATE_HOME : (process.env.XDG_STATE_HOME = before)))
  process.env.XDG_STATE_HOME = folder
  const spec = { path: model, contextLength: 512 }
  assert.equal(estimateModelMemory(spec).basis, 'arithmetic')
  mkdirSync(join(folder, 'rkllm-memory'))
  const file = join(folder, 'rkllm-memory/models.json')
  writeFileSync(file, 'damaged')
  refuses(() => estimateModelMemory(spec), 'ERR_UNSUPPORTED')
  fs.chmodSync(file, 0)
  // Root may read every file.
  if (process.getuid() !== 0) assert.equal(estimateModelMemory(spec).basis, 'arithmetic')
})

test('a damaged calibration file is named, and a newer one too', (t) => {
  const { model, calibration } = folderOf(t)
  mkdirSync(dirname(calibration))
  const spec = { path: model, contextLength: 512, calibration }
  for (const [text, pattern] of [
    ['', /is not JSON/],
    ['{"version":1,"models":[{"finger', /is not JSON/],
    ['[]', /is not one of this package/],
    ['{"version":2,"models":[]}', /has version 2, and this package knows 1/],
    ['{"version":1,"models":[{"fingerprint":"a"}]}', /entries without figures/],
  ]) {
    writeFileSync(calibration, text)
    const error = refuses(() => estimateModelMemory(spec), 'ERR_UNSUPPORTED', text)
    assert.match(error.message, pattern)
    assert.equal(error.path, calibration)
    assert.ok(error.hint)
    assert.equal(readFileSync(calibration, 'utf8'), text, 'it is left as it is')
  }
  writeFileSync(calibration, '{"version":1,"models":[]}')
  assert.equal(estimateModelMemory(spec).basis, 'arithmetic')
})

/** A process of a machine: a DRM node that is mapped twice, two descriptors of one dma-buf, a child. */
function machine(t) {
  const { folder } = folderOf(t)
  const put = (path, text) => {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), text)
  }
  const status = (parent, rss, [anon, file, shmem]) =>
    `Name:\tdemo\nPPid:\t${parent}\nVmRSS:\t${rss} kB\n` +
    `RssAnon:\t${anon} kB\nRssFile:\t${file} kB\nRssShmem:\t${shmem} kB\n`
  put('proc/100/status', status(1, 3000, [1000, 1900, 100]))
  put('proc/101/status', status(100, 500, [300, 200, 0]))
  put('proc/102/status', status(1, 9000, [9000, 0, 0]))
  put('proc/103/status', 'Name:\tended\nPPid:\t100\nState:\tZ (zombie)\n')
  put('proc/101/smaps_rollup', '00 ---p 00 00:00 0 [rollup]\nRss: 500 kB\nPss: 350 kB\n')
  const map = (from, to, offset) => `${from}-${to} rw-s ${offset} 00:06 9 `.padEnd(73) + '/dev/dri/card1'
  const maps = [map('10000000', '10400000', '100000000'), map('20000000', '20400000', '100000000')]
  put('proc/100/maps', `${maps.join('\n')}\n`)
  const sizes = maps.map((line) => `${line}\nSize: 4096 kB\nRss: 512 kB\n`)
  put('proc/100/smaps', `${sizes.join('')}30-40 r--p 0 0:0 0\nRss: 8 kB\n`)
  put('proc/100/comm', 'demo\n')
  for (const pid of [100, 101]) mkdirSync(join(folder, `proc/${pid}/fd`))
  symlinkSync('/dev/dri/card1', join(folder, 'proc/100/fd/3'))
  for (const fd of [4, 5]) {
    symlinkSync('/dmabuf:', join(folder, `proc/100/fd/${fd}`))
    put(`proc/100/fdinfo/${fd}`, 'pos: 0\nino: 77\nsize: 6291456\ncount: 3\nexp_name: drm\n')
  }
  put('proc/meminfo', 'MemAvailable: 9000 kB\nCmaTotal: 500 kB\nCmaFree: 100 kB\nCmaAllocated: 200 kB\n')
  return makeReader(folder)
}

test('a process tree: resident bytes by kind, dma-bufs once, mapped objects once', (t) => {
  const KiB = 1024
  const sample = sampleOf(machine(t), 100, ['/dev/dri/card1'])
  assert.deepEqual(sample, {
    processes: 2,
    unreadable: 0,
    resident: (3000 + 350) * KiB,
    anonymous: 1300 * KiB,
    file: 2100 * KiB,
    shmem: 100 * KiB,
    dmaBufs: 6 * MiB,
    npu: 4 * MiB,
    // The NPU's 6 MiB, of which 1 MiB is resident.
    footprint: (3000 + 350) * KiB + 5 * MiB,
  })
  const reader = machine(t)
  const listed = []
  sampleOf({ ...reader, list: (path, pattern) => (listed.push(path), reader.list(path, pattern)) }, 100, [])
  assert.deepEqual(listed.filter((path) => path.endsWith('/fd')), ['/proc/100/fd', '/proc/101/fd'], 'once each')
  assert.equal(sampleOf(machine(t), 999, []), null)
  assert.equal(sampleOf(machine(t), 102, []).unreadable, 1, 'no folder of descriptors: a process of another user')
})

test("the page cache that borrows from CMA is not the model's", (t) => {
  assert.deepEqual(machineMemory(machine(t)), { available: 9000 * 1024, cmaUsed: 200 * 1024 })
  assert.deepEqual(machineMemory(makeReader(folderOf(t).folder)), { available: null, cmaUsed: null })
})

test("the drivers' counters, where they can be read", (t) => {
  const { folder } = folderOf(t)
  assert.deepEqual(driverMemory(makeReader(folder)), { sramUsed: null, heapUsed: null })
  for (const [path, text] of [
    ['proc/rknpu/mm', 'SRAM bitmap: "*" - used, "." - free (1bit = 4KB)\nSRAM total size: 9, used: 8192, free: 1\n'],
    ['proc/rk_dma_heap/alloc_bitmap', 'Total: 65536 KiB\n Used: 1392 KiB\n'],
  ]) {
    fs.mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), text)
  }
  assert.deepEqual(driverMemory(makeReader(folder)), { sramUsed: 8192, heapUsed: 1392 * 1024 })
})

test('the command line: measures, says what it stored, passes the command its options', async (t) => {
  const { model, calibration } = folderOf(t)
  const loads = [process.execPath, ...flags, LOADS, String(64 * MiB)]
  const words = ['measure', '--model', model, '--calibration', calibration, '--until', 'init success']
  const { status, stdout, stderr } = await command([...words, '--context', '512', '--', ...loads])
  assert.equal(status, 0, stderr)
  assert.match(stdout, /^qwen\.rkllm/m)
  assert.match(stdout, /footprint +\d+(\.\d)? MiB/)
  assert.match(stdout, /stored in/)
  assert.equal(readCalibration(calibration)[0].contextLength, 512)
  const json = JSON.parse((await command([...words, '--json', '--', ...loads])).stdout)
  assert.ok(json.footprint >= 64 * MiB)
  const estimated = await command(['estimate', model, '--context', '512', '--calibration', calibration])
  assert.match(estimated.stdout, /measured here/)
  for (const [wrong, pattern] of [
    [['measure'], /COMMAND is missing/],
    [['measure', '--', 'true'], /--model is missing/],
    [['measure', '--model', model, '--until', '(', '--', 'true'], /--until is "\("/],
  ]) {
    const refused = await command(wrong)
    assert.equal(refused.status, STATUS.usage)
    assert.match(refused.stderr, pattern)
  }
  // A model among the words of the command needs no option.
  const short = ['measure', '--calibration', calibration, '--until', '1500ms']
  const named = await command([...short, '--', ...loads, 'run', model])
  assert.equal(named.status, 0, named.stderr)
})
