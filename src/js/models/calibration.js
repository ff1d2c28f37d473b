'use strict'

// The calibration file: what `measure` found on this machine, by model file, runtime, driver and context.
//
// It is $XDG_STATE_HOME/rkllm-memory/models.json, or ~/.local/state/rkllm-memory/models.json. A measurement finds its
// model by the size and the contents of the file's ends, so it stays with a file that is moved or copied.

const { createHash, randomBytes } = require('node:crypto')
const fs = require('node:fs')
const { homedir } = require('node:os')
const { dirname, join } = require('node:path')
const { memoryError } = require('../core/errors.js')
const { Buffer, dateNow, setTimeout } = require('../core/runtime.js')
const { systemError } = require('../core/system-errors.js')
const { isObject } = require('./shape.js')

const VERSION = 1
/** The bytes of each end of a file that are compared. */
const END = 1 << 16
/** The most measurements that are kept, the newest. */
const MAX_ENTRIES = 1000
/** The pause between two tries to take the lock. */
const RETRY_MS = 20
/** A lock is held for milliseconds; one this old was left behind by a process that was killed. */
const STALE_MS = 10_000

/** @typedef {import('../types/models.js').MeasuredModel} MeasuredModel */
/** @typedef {MeasuredModel & { fingerprint: string }} Entry */

/** Returns the default file; null for a user without a home. */
function defaultFile(env = process.env) {
  const state = env.XDG_STATE_HOME
  if (state?.startsWith('/')) return join(state, 'rkllm-memory', 'models.json')
  try {
    return join(homedir(), '.local', 'state', 'rkllm-memory', 'models.json')
  } catch {
    return null
  }
}

/**
 * Returns a digest of a file's size and ends.
 *
 * @param {string} path
 */
function fingerprintOf(path) {
  const fd = fs.openSync(path, 'r')
  try {
    const { size } = fs.fstatSync(fd)
    const hash = createHash('sha256').update(`${size}\n`)
    const piece = Buffer.alloc(Math.min(END, size))
    for (const at of [0, Math.max(0, size - END)]) {
      hash.update(piece.subarray(0, fs.readSync(fd, piece, 0, piece.length, at)))
    }
    return hash.digest('hex')
  } finally {
    fs.closeSync(fd)
  }
}

/**
 * @param {string} file
 * @param {string} what
 */
const damaged = (file, what) =>
  memoryError('ERR_UNSUPPORTED', `the calibration file ${file} ${what}`, {
    path: file,
    hint: 'remove it and measure again, or name another (option calibration)',
  })

/** @type {(entry: unknown) => entry is Entry} */
const isEntry = (entry) =>
  isObject(entry) &&
  typeof entry.fingerprint === 'string' &&
  ['footprint', 'resident', 'npu', 'dmaBufs', 'at'].every((name) => Number.isFinite(entry[name])) &&
  ['runtime', 'driver'].every((name) => entry[name] === null || typeof entry[name] === 'string')

/**
 * Reads the measurements; none if there is no file.
 *
 * @param {string} file
 * @returns {Entry[]}
 */
function readCalibration(file) {
  let text
  try {
    text = fs.readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = /** @type {NodeJS.ErrnoException} */ (error)
    if (code === 'ENOENT' || code === 'ENOTDIR') return []
    throw systemError(`the calibration file ${file} cannot be read`, error, file) ?? error
  }
  let parsed
  try {
    parsed = JSON.parse(text)
  } catch {
    throw damaged(file, 'is not JSON')
  }
  if (!isObject(parsed) || !Number.isInteger(parsed.version)) throw damaged(file, 'is not one of this package')
  if (/** @type {number} */ (parsed.version) > VERSION)
    throw damaged(file, `has version ${parsed.version}, and this package knows ${VERSION}`)
  if (!Array.isArray(parsed.models) || !parsed.models.every(isEntry)) throw damaged(file, 'has entries without figures')
  return parsed.models
}

/** @type {(a: Entry, b: Entry) => boolean} */
const isSame = (a, b) =>
  a.fingerprint === b.fingerprint &&
  a.runtime === b.runtime &&
  a.driver === b.driver &&
  a.contextLength === b.contextLength

/**
 * @param {string} file
 * @param {unknown} error
 */
const notWritten = (file, error) => systemError(`the calibration file ${file} cannot be written`, error, file) ?? error

/**
 * Adds a measurement, in place of an older one of the same model, runtime, driver and context. A lock file beside the
 * calibration file makes other writers wait, so that measurements which end at once all stay.
 *
 * @param {string} file
 * @param {Entry} entry
 */
async function saveMeasurement(file, entry) {
  const lock = `${file}.lock`
  try {
    fs.mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
    while (!tryLock(lock)) await new Promise((resolve) => void setTimeout(resolve, RETRY_MS))
  } catch (error) {
    throw notWritten(file, error)
  }
  try {
    addEntry(file, entry)
  } finally {
    fs.rmSync(lock, { force: true })
  }
}

/**
 * Makes the lock file; false if another writer has it. A lock that was left behind is moved away, which
 * one of several waiting writers can do.
 *
 * @param {string} lock
 */
function tryLock(lock) {
  try {
    fs.closeSync(fs.openSync(lock, 'wx', 0o600))
    return true
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'EEXIST') throw error
  }
  const age = dateNow() - (fs.statSync(lock, { throwIfNoEntry: false })?.mtimeMs ?? Infinity)
  // A clock that was set back makes a lock of the future.
  if (Math.abs(age) > STALE_MS && age !== -Infinity) {
    const old = `${lock}-${randomBytes(8).toString('hex')}`
    try {
      fs.renameSync(lock, old)
      fs.rmSync(old, { force: true })
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'ENOENT') throw error
    }
  }
  return false
}

/**
 * Replaces the file at once, so that a reader sees the old or the new one.
 *
 * @param {string} file
 * @param {Entry} entry
 */
function addEntry(file, entry) {
  const others = readCalibration(file).filter((other) => !isSame(other, entry))
  const models = [entry, ...others].slice(0, MAX_ENTRIES)
  const draft = join(dirname(file), `.models-${randomBytes(8).toString('hex')}`)
  let fd
  try {
    fd = fs.openSync(draft, 'wx', 0o600)
    fs.writeFileSync(fd, `${JSON.stringify({ version: VERSION, models }, null, 2)}\n`)
    fs.fsyncSync(fd)
    fs.renameSync(draft, file)
  } catch (error) {
    if (fd !== undefined) fs.rmSync(draft, { force: true })
    throw notWritten(file, error)
  } finally {
    if (fd !== undefined) fs.closeSync(fd)
  }
}

/**
 * Reads the measurements of a model file.
 *
 * @param {string} file
 * @param {string} path of the model
 */
function measurementsOf(file, path) {
  const entries = readCalibration(file)
  if (entries.length === 0) return []
  const fingerprint = fingerprintOf(path)
  return entries.filter((entry) => entry.fingerprint === fingerprint)
}

/**
 * Returns the newest measurement, one of the same context first; null without one.
 *
 * @param {Entry[]} entries
 * @param {{ runtime?: string, contextLength: number | null }} wanted any runtime if it is not given
 */
function bestOf(entries, { runtime, contextLength }) {
  const plain = runtime?.replace(/^v/, '')
  const found = entries.filter((entry) => plain === undefined || [plain, null].includes(entry.runtime))
  const rank = (/** @type {Entry} */ entry) =>
    entry.contextLength === contextLength ? 2 : entry.contextLength === null ? 1 : 0
  return found.sort((a, b) => rank(b) - rank(a) || b.at - a.at)[0] ?? null
}

/** Errors of a place that this process may not enter. */
const DENIED = ['EACCES', 'EPERM', 'ERR_ACCESS_DENIED']

/**
 * Looks into the default file. One that this process may not read has no measurements.
 *
 * @param {string} path of the model
 */
function measurementsByDefault(path) {
  const file = defaultFile()
  if (file === null) return []
  try {
    return measurementsOf(file, path)
  } catch (error) {
    const { cause } = /** @type {{ cause?: NodeJS.ErrnoException }} */ (error)
    if (DENIED.includes(cause?.code ?? '')) return []
    throw error
  }
}

module.exports = {
  bestOf,
  defaultFile,
  fingerprintOf,
  measurementsByDefault,
  measurementsOf,
  readCalibration,
  saveMeasurement,
}
