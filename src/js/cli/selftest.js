'use strict'

// `rkllm-memory selftest`: checks the library on this board, and writes a file to send in.

const { accessSync, constants, writeFileSync } = require('node:fs')
const { release } = require('node:os')
const { dirname } = require('node:path')
const { UsageError, expectWords, oneOf, wholeNumber } = require('./args.js')
const { makeProgress } = require('./progress.js')
const { CHECKS } = require('./selftest/checks.js')
const { runChecks } = require('./selftest/run.js')
const { pad, wrap } = require('./style.js')
const { memoryError } = require('../core/errors.js')
const { dateNow } = require('../core/runtime.js')

/**
 * @typedef {import('./selftest/checks.js').Result} Result
 * @typedef {import('../types/devices.js').DeviceInfo} DeviceInfo
 */

const BACKENDS = ['rknpu', 'rknpu-heap', 'rocket', 'dma-heap', 'simulated']
const [SOAK_SECONDS, MAX_SOAK_SECONDS] = [15, 60]
/** The file must be written within two minutes, also where a driver hangs. */
const LIMIT_MS = 110_000
const SIMULATED = 'SIMULATED DEVICE: these results tell nothing about a board'
/** @type {Record<Result['status'], ['ok' | 'n/a' | 'FAIL' | '-', 'green' | 'dim' | 'red']>} */
const MARKS = {
  passed: ['ok', 'green'],
  unsupported: ['n/a', 'dim'],
  failed: ['FAIL', 'red'],
  'not run': ['-', 'dim'],
}

/** @type {import('./args.js').Command} */
const command = {
  name: 'selftest',
  summary: 'checks this library on your board, and writes one file to send in',
  words: '',
  options: {
    device: {
      type: 'string',
      value: 'NAME',
      text: `${BACKENDS.join(', ')}; default: the best NPU of this machine`,
      parse: oneOf(...BACKENDS),
    },
    output: { type: 'string', value: 'FILE', text: 'the file; default rkllm-selftest-SOC-TIME.json' },
    seconds: {
      type: 'string',
      value: 'N',
      text: `length of the soak, 1 to ${MAX_SOAK_SECONDS}; default ${SOAK_SECONDS}`,
      parse: wholeNumber(1, MAX_SOAK_SECONDS),
    },
    json: { type: 'boolean', text: 'the results as JSON on standard output, and no file' },
  },
  notes: [
    'Takes less than two minutes, holds less than 100 MiB, and leaves nothing behind. It runs no job on the NPU ' +
      'and loads no model.',
    'The file has the results, the facts of `doctor --json`, and the versions of kernel, driver and package. ' +
      'It has no environment and no contents of memory. Check it before you send it.',
    'Exit status 1 if any check fails.',
  ],
  examples: ['rkllm-memory selftest --device simulated --seconds 1'],
  async run({ values, words, io, paint, print, json, width, STATUS }) {
    expectWords(words, [])
    if (values.json && values.output !== undefined) throw new UsageError('--json and --output exclude each other')
    const { MemoryManager, diagnose } = require('../../../index.js')
    const device = chooseDevice(values.device)
    const opening = device.simulated
      ? { backend: 'simulated', simulated: { caches: 'incoherent' } }
      : { backend: device.backend, ...(device.path === null ? {} : { device: device.path }) }
    const began = dateNow()
    const file = values.output ?? nameOf(device, began)
    // Fails before the checks, not after them.
    if (!values.json) accessSync(dirname(file), constants.W_OK)
    const show = values.json ? () => {} : print
    if (device.simulated) show(paint.yellow(`${SIMULATED}\n`))
    else show(`${paint.bold(device.soc ?? device.backend)} · ${device.backend} ${device.driverVersion ?? ''}\n`)

    const progress = makeProgress(io.stderr, CHECKS.length)
    const results = await runChecks(
      { opening, seconds: values.seconds ?? SOAK_SECONDS },
      {
        limitMs: LIMIT_MS,
        onStart: (title, at) => progress.update(at, title),
        onResult(result) {
          progress.clear()
          show(line(result, paint, width))
        },
      },
    )
    const failed = results.filter(({ status }) => status === 'failed' || status === 'not run').length
    const report = {
      format: 'rkllm-memory selftest',
      formatVersion: 1,
      simulated: device.simulated,
      verdict: failed === 0 ? 'passed' : 'failed',
      time: new Date(began).toISOString(),
      seconds: Math.round((dateNow() - began) / 1000),
      package: { version: MemoryManager.version, buildInfo: MemoryManager.buildInfo },
      runtime: process.versions,
      kernel: release(),
      device,
      results,
      diagnosis: diagnose(),
    }
    if (values.json) json(report)
    else {
      const count = (/** @type {string} */ status) => results.filter((result) => result.status === status).length
      print(`\n${failed === 0 ? paint.green('passed') : paint.red('failed')}: ${count('passed')} ok, ` +
        `${count('unsupported')} without support, ${failed} failed or not run`)
      writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`)
      print(`written: ${file}`)
      if (device.simulated) print(paint.yellow(SIMULATED))
    }
    return failed === 0 ? STATUS.ok : STATUS.finding
  },
}

/**
 * Returns the device of that name, or the best NPU. The simulated device is never a substitute here.
 *
 * @param {string | undefined} name
 * @returns {DeviceInfo}
 */
function chooseDevice(name) {
  const { MemoryManager, probeDevices } = require('../../../index.js')
  if (name !== undefined) {
    const manager = new MemoryManager({ backend: /** @type {DeviceInfo['backend']} */ (name) })
    const { device } = manager
    manager.dispose()
    return device
  }
  const isNpu = (/** @type {{ backend: string }} */ { backend }) => !['dma-heap', 'simulated'].includes(backend)
  const found = probeDevices().filter(isNpu)
  for (const each of found) if (each.refused === undefined) return each
  for (const each of found) if (each.refused) throw each.error
  const hint = 'to try the checks without one: rkllm-memory selftest --device simulated'
  throw memoryError('ERR_DEVICE_NOT_FOUND', 'there is no NPU here', { hint })
}

/**
 * @param {Result} result
 * @param {import('./args.js').Context['paint']} paint
 * @param {number} width
 */
function line({ title, status, message, figures }, paint, width) {
  const [mark, color] = MARKS[status]
  const facts = Object.entries(figures ?? {}).map(([name, value]) => `${name} ${value}`)
  const rest = message ?? facts.join(', ')
  const text = rest === '' ? title : `${title}: ${rest}`
  return `${paint[color](pad(mark, 5))} ${wrap(text, width - 6).join(`\n${' '.repeat(6)}`)}`
}

/**
 * @param {DeviceInfo} device
 * @param {number} began
 */
function nameOf({ simulated, soc, backend }, began) {
  const place = simulated ? 'simulated' : (soc ?? backend)
  return `rkllm-selftest-${place}-${new Date(began).toISOString().slice(0, 19).replace(/[:T-]/g, '')}.json`
}

module.exports = command
