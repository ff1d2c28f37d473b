'use strict'

// Measures the memory of a model: runs a command that loads it, watches the process and its children until the model is
// loaded, ends them, and stores the figures where estimates find them.

const { spawn } = require('node:child_process')
const { basename } = require('node:path')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { check, formatValue, invalid, kinds, outOfRange } = require('../core/options.js')
const { dateNow, now, setInterval, clearInterval, setTimeout, clearTimeout } = require('../core/runtime.js')
const { systemError } = require('../core/system-errors.js')
const { factsOf } = require('../devices/doctor/facts.js')
const { makeReader } = require('../devices/doctor/reader.js')
const { defaultFile, fingerprintOf, saveMeasurement } = require('./calibration.js')
const { inspect } = require('./file.js')
const { model } = require('./options.js')
const { machineMemory, sampleOf, treeOf } = require('./process-memory.js')

const SAMPLE_MS = 200
/** After the sign that a model is loaded, its memory may still grow for so long. */
const SETTLE_MS = 400
/** Without a sign, a model counts as loaded when its memory has not grown for so long. */
const STEADY_MS = 10_000
/** Growth that is none. */
const STEADY_SHARE = 0.002
const STEADY_BYTES = 2 ** 20
/** The time between the request to end and the signal that no process can ignore. */
const KILL_MS = 3000
/** The time for output that is still on its way when the command has ended. */
const DRAIN_MS = 500
/** The output that is kept for a sign and for messages. */
const MAX_OUTPUT = 1 << 16

/**
 * @template T
 * @typedef {import('../core/options.js').Validator<T>} Validator
 */
/**
 * @typedef {import('../types/models.js').MeasuredModel} MeasuredModel
 * @typedef {import('../types/models.js').MeasureStart} MeasureStart
 * @typedef {import('./process-memory.js').Sample} Sample
 *
 * @typedef {object} Watching
 * @property {AbortSignal} [signal]
 * @property {number} steadyMs
 * @property {(stop: (reason: unknown) => void) => void} onStart gets a function that ends the measurement
 * @property {(text: string) => void} onOutput
 * @property {string[]} nodes the NPU's device nodes
 */

const startSchema = {
  command: kinds.string,
  /** @type {Validator<string[]>} */
  args: (name, value) => {
    if (Array.isArray(value) && value.every((each) => typeof each === 'string')) return value
    throw invalid(`${name} must be an array of strings`)
  },
  /** @type {Validator<Record<string, string>>} */
  env: (name, value) => {
    if (typeof value !== 'object' || value === null) throw invalid(`${name} must be an object of strings`)
    for (const [key, text] of Object.entries(value))
      if (typeof text !== 'string') throw invalid(`${name}.${key} must be a string, not ${formatValue(text)}`)
    return /** @type {Record<string, string>} */ (value)
  },
  model: kinds.string,
  /** @type {Validator<RegExp | number>} */
  until: (name, value) => {
    if (value instanceof RegExp) return value
    if (typeof value !== 'number') throw invalid(`${name} must be a RegExp or milliseconds, not ${formatValue(value)}`)
    if (value > 0 && value < 2 ** 31) return value
    throw outOfRange(`${name} is ${value}; it must be 1 to 2^31 - 1 milliseconds`)
  },
  contextLength: kinds.integer(1, 2 ** 31 - 1),
  runtime: model.runtime,
  calibration: model.calibration,
}

/**
 * Implements `measureModel`.
 *
 * @param {MeasureStart} start
 * @param {{ signal?: AbortSignal }} [options]
 * @returns {Promise<MeasuredModel>}
 */
async function measureModel(start, options) {
  return measure(start, check('measureModel', options, { signal: kinds.signal }))
}

/**
 * Measures, and shows the output to the command line.
 *
 * @param {MeasureStart} start
 * @param {{ signal?: AbortSignal, steadyMs?: number, onStart?: Watching['onStart'],
 *   onOutput?: Watching['onOutput'] }} options
 * @returns {Promise<MeasuredModel>}
 */
async function measure(start, { signal, steadyMs = STEADY_MS, onStart = () => {}, onOutput = () => {} }) {
  const given = check('measureModel', start ?? null, startSchema)
  const { command, model: path, contextLength = null } = given
  const calibration = given.calibration ?? defaultFile()
  if (!command) throw invalid('command is missing', 'name the program that loads the model')
  if (calibration === null) throw invalid('this user has no home for the calibration file', 'set XDG_STATE_HOME')
  if (path === undefined) throw invalid('model is missing', 'name the model file that the command loads')
  inspect(path)
  const fingerprint = fingerprintOf(path)
  signal?.throwIfAborted()
  const reader = makeReader()
  const { nodes, driver } = factsOf(reader)
  const before = machineMemory(reader)
  const watchedNodes = nodes.map(({ path: node }) => node)
  const watch = await watched(given, { signal, steadyMs, onStart, onOutput, nodes: watchedNodes })
  const { peak, after, output } = watch
  const { unreadable, ...loaded } = watch.loaded
  if (unreadable > 0) throw notOurs(command)
  const [, runtime = null] = /rkllm-runtime version: v?(\d+\.\d+\.\d+)/i.exec(output) ?? []
  const [, driverVersion = driver.version ?? null] = /rknpu driver version: v?(\d+\.\d+\.\d+)/i.exec(output) ?? []
  /** @type {(a: number | null, b: number | null) => number | null} */
  const drop = (a, b) => (a === null || b === null ? null : a - b)
  /** @type {MeasuredModel} */
  const found = {
    path,
    runtime: given.runtime?.replace(/^v/, '') ?? runtime,
    driver: driverVersion,
    contextLength,
    ...loaded,
    peak,
    availableDrop: drop(before.available, after.available),
    cma: drop(after.cmaUsed, before.cmaUsed),
    command: [basename(command), ...(given.args ?? [])].join(' '),
    at: dateNow(),
    calibration: calibration === false ? null : calibration,
  }
  if (calibration !== false) await saveMeasurement(calibration, { ...found, fingerprint })
  return found
}

/**
 * Runs the command until the model is loaded, and ends it.
 *
 * @param {import('../core/options.js').Checked<typeof startSchema>} start
 * @param {Watching} options
 * @returns {Promise<{ loaded: Sample, peak: number, after: ReturnType<typeof machineMemory>, output: string }>}
 */
function watched({ command = '', args = [], env, until }, { signal, steadyMs, onStart, onOutput, nodes }) {
  return new Promise((resolve, reject) => {
    // An open pipe as standard input: programs that wait for a prompt go on waiting.
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', 'pipe'] })
    const began = now()
    const sign = until instanceof RegExp ? new RegExp(until.source, until.flags.replace(/[gy]/g, '')) : null
    let output = ''
    /** @type {Sample | null} */
    let last = null
    /** @type {Sample | null} */
    let largest = null
    /** @type {ReturnType<typeof machineMemory>} */
    let after = { available: null, cmaUsed: null }
    let signedAt = Infinity
    let grewAt = began
    let ended = false
    /** @type {(() => void) | null} what follows the end of the command */
    let outcome = null
    /** @type {any} */
    let killer
    /** @type {any} */
    let drain

    const sample = () => {
      // A reader remembers what it has read, for support bundles: each sample has its own.
      const reader = makeReader()
      const found = child.pid === undefined ? null : sampleOf(reader, child.pid, nodes)
      if (found === null) return
      if (found.footprint > (last?.footprint ?? 0) * (1 + STEADY_SHARE) + STEADY_BYTES) grewAt = now()
      if (last === null || now() - grewAt < SAMPLE_MS || found.footprint > last.footprint) last = found
      if (largest === null || found.footprint > largest.footprint) largest = found
      after = machineMemory(reader)
    }
    const finish = (/** @type {() => void} */ then) => {
      if (outcome !== null) return
      outcome = then
      clearInterval(timer)
      signal?.removeEventListener('abort', abort)
      if (ended) return then()
      end('SIGTERM')
      killer = setTimeout(() => end('SIGKILL'), KILL_MS)
    }
    /** Ends the command and the processes that it has started. */
    const end = (/** @type {NodeJS.Signals} */ name) => {
      const tree = child.pid === undefined ? [] : treeOf(makeReader(), child.pid)
      for (const pid of tree) {
        try {
          process.kill(pid, name)
        } catch {
          // It has ended by itself.
        }
      }
    }
    const done = () => {
      const loaded = /** @type {Sample} */ (last)
      finish(() => resolve({ loaded, peak: Math.max(loaded.footprint, largest?.footprint ?? 0), after, output }))
    }
    const stop = (/** @type {unknown} */ reason) => finish(() => reject(reason))
    const abort = () => stop(signal?.reason)
    const read = (/** @type {any} */ data) => {
      const text = String(data)
      output = (output + text).slice(-MAX_OUTPUT)
      onOutput(text)
      if (signedAt === Infinity && sign?.test(output)) signedAt = now()
    }
    const tick = () => {
      sample()
      const time = now()
      if (last === null) return
      if (time - signedAt >= SETTLE_MS) return done()
      if (typeof until === 'number' && time - began >= until) return done()
      if (until === undefined && time - grewAt >= steadyMs) done()
    }

    const timer = setInterval(tick, SAMPLE_MS)
    signal?.addEventListener('abort', abort, { once: true })
    onStart(stop)
    // A process without a free descriptor gets no pipes; the error follows.
    child.stdin?.on('error', () => {})
    child.stdout?.on('data', read)
    child.stderr?.on('data', read)
    child.on('error', (error) => {
      ended = true
      finish(() => reject(notStarted(command, /** @type {NodeJS.ErrnoException} */ (error))))
    })
    const closed = (/** @type {number | null} */ code, /** @type {NodeJS.Signals | null} */ killedBy) => {
      if (ended) return
      ended = true
      clearTimeout(killer)
      clearTimeout(drain)
      if (outcome !== null) return outcome()
      // A command that loads, answers and ends by itself was measured at its largest.
      if (code === 0 && largest !== null && (sign === null || signedAt !== Infinity)) {
        last = largest
        return done()
      }
      finish(() => reject(endedEarly(command, code, killedBy, { sign, output, largest })))
    }
    // A process that the command left behind may hold its output open.
    child.on('exit', (code, killedBy) => {
      drain = setTimeout(() => {
        child.stdout.destroy()
        child.stderr.destroy()
        closed(code, killedBy)
      }, DRAIN_MS)
    })
    child.on('close', closed)
  })
}

/**
 * @param {string} command
 * @param {NodeJS.ErrnoException} error
 */
function notStarted(command, error) {
  const what = `the command ${formatValue(command)} cannot be started`
  const { code = error.message } = error
  // This process lacks descriptors or memory.
  if (['EMFILE', 'ENFILE', 'ENOMEM'].includes(code)) return systemError(what, error, command)
  const hint =
    code === 'EACCES'
      ? 'it may not be executed: chmod +x, or name its interpreter'
      : 'name a program of PATH, or its path, as ./llm_demo; it is run without a shell'
  return memoryError('ERR_DEVICE_IO', `${what}: ${code}`, { path: command, hint }, { cause: error })
}

/** @param {string} command */
const notOurs = (command) =>
  memoryError(
    'ERR_DEVICE_PERMISSION',
    `the command ${formatValue(command)} runs as another user, whose NPU memory this process may not see`,
    { hint: 'run the measurement as that user: sudo rkllm-memory measure -- COMMAND, without sudo in COMMAND' },
  )

/**
 * @param {string} command
 * @param {number | null} code
 * @param {NodeJS.Signals | null} killedBy
 * @param {{ sign: RegExp | null, output: string, largest: Sample | null }} seen
 */
function endedEarly(command, code, killedBy, { sign, output, largest }) {
  const how = killedBy === null ? `with status ${code}` : `by ${killedBy}`
  const line = output.trimEnd().split('\n').at(-1)?.slice(0, 200)
  const size = largest === null ? '' : `, with ${formatBytes(largest.footprint)} at most`
  return memoryError(
    'ERR_DEVICE_IO',
    `the command ${formatValue(command)} ended ${how} before the model was loaded${size}` +
      (sign === null ? '' : `: its output never matched ${sign}`) +
      (line ? `; its last line is ${JSON.stringify(line)}` : ''),
    {
      hint:
        killedBy === 'SIGKILL'
          ? 'the kernel may have killed it for want of memory: look at dmesg'
          : 'run it by itself first, and explain its last line with explainError',
    },
  )
}

module.exports = { measure, measureModel, startSchema }
