'use strict'

// Tells how far a load is: by its own report, else by the bytes of the model's file that its process has read or
// mapped, while a listener wants to know.

const { realpathSync, statSync } = require('node:fs')
const { readFile } = require('node:fs/promises')
const { invalid, formatValue, outOfRange } = require('../core/options.js')
const { clearInterval, now, setInterval } = require('../core/runtime.js')
const { makeReader } = require('../devices/doctor/reader.js')

/** @typedef {import('../devices/doctor/reader.js').Reader} Reader */

/** The time between two looks at the process. */
const LOOK_MS = 200

class LoadProgress {
  #file
  /** @type {number | null} */
  #total
  #source
  #tell
  #began = now()
  #bytes = 0
  #isReported = false
  #isOver = false
  #isLooking = false
  /** What its process had read before the load. */
  #base = 0
  /** @type {any} */
  #timer

  /**
   * @param {string | undefined} path of the model
   * @param {object} source
   * @param {() => number | null} source.pid the process that loads
   * @param {boolean} source.isOwn whether that process does nothing else
   * @param {() => boolean} source.isWanted whether a listener wants to know
   * @param {(progress: { bytes: number, total?: number, ms: number }) => void} tell
   */
  constructor(path, source, tell) {
    this.#file = fileOf(path)
    this.#total = this.#file?.size ?? null
    this.#source = source
    this.#tell = tell
  }

  /** The process is there, and begins to load. */
  begin() {
    this.#base = this.#readByProcess()
    this.#timer = setInterval(() => void this.#look(), LOOK_MS)
    this.#timer.unref()
  }

  /**
   * Takes the load's own report, which is told from then on in place of what the process reads.
   *
   * @param {unknown} bytes
   * @param {unknown} [total]
   */
  report(bytes, total) {
    const checked = checkReport(bytes, total)
    if (checked.total !== undefined) this.#total = checked.total
    if (!this.#isReported) this.#bytes = -1
    this.#isReported = true
    this.#advance(checked.bytes)
  }

  end() {
    this.#isOver = true
    clearInterval(this.#timer)
  }

  async #look() {
    const pid = this.#source.pid()
    if (this.#isLooking || this.#isReported || pid === null || !this.#source.isWanted()) return
    this.#isLooking = true
    const reader = makeReader()
    const ofFile = this.#file === null ? 0 : await bytesOfFile(reader, pid, this.#file.path)
    const read = Math.max(ofFile, this.#readByProcess(reader) - this.#base)
    this.#isLooking = false
    if (!this.#isReported) this.#advance(Math.min(this.#total ?? Infinity, read))
  }

  /** Returns the bytes that the process has read, if it does nothing else than to load. */
  #readByProcess(reader = makeReader()) {
    const pid = this.#source.isOwn ? this.#source.pid() : null
    const io = pid === null ? '' : (reader.text(`/proc/${pid}/io`) ?? '')
    return Number(/^rchar: (\d+)$/m.exec(io)?.[1] ?? 0)
  }

  /** @param {number} bytes */
  #advance(bytes) {
    if (this.#isOver || bytes <= this.#bytes) return
    this.#bytes = bytes
    this.#tell({ bytes, ...(this.#total === null ? {} : { total: this.#total }), ms: now() - this.#began })
  }
}

/**
 * Checks a load's own report.
 *
 * @param {unknown} bytes
 * @param {unknown} total
 */
function checkReport(bytes, total) {
  const figure = (/** @type {string} */ name, /** @type {unknown} */ value) => {
    if (typeof value !== 'number') throw invalid(`progress: ${name} must be a number, not ${formatValue(value)}`)
    if (value >= 0 && value <= Number.MAX_SAFE_INTEGER) return value
    throw outOfRange(`progress: ${name} is ${value}; it must be 0 to 2^53 - 1 bytes`)
  }
  return { bytes: figure('bytes', bytes), total: total === undefined ? undefined : figure('total', total) }
}

/**
 * Returns a file's real path and its size; null if it is none.
 *
 * @param {string | undefined} path
 */
function fileOf(path) {
  try {
    if (path === undefined) return null
    const real = realpathSync(path)
    return { path: real, size: statSync(real).size }
  } catch {
    return null
  }
}

/**
 * Returns the bytes of a file that a process has read through a descriptor, or that are resident where it has mapped
 * the file.
 *
 * @param {Reader} reader
 * @param {number} pid
 * @param {string} path
 */
async function bytesOfFile(reader, pid, path) {
  let most = 0
  for (const fd of reader.list(`/proc/${pid}/fd`) ?? []) {
    if (reader.link(`/proc/${pid}/fd/${fd}`) !== path) continue
    const [, at = 0] = /^pos:\s+(\d+)$/m.exec(reader.text(`/proc/${pid}/fdinfo/${fd}`) ?? '') ?? []
    most = Math.max(most, Number(at))
  }
  const maps = await textOf(`/proc/${pid}/maps`)
  return maps.includes(` ${path}\n`) ? Math.max(most, residentOf(await textOf(`/proc/${pid}/smaps`), path)) : most
}

/**
 * Reads a file of /proc on another thread: the kernel walks over each page of a process for its smaps.
 *
 * @param {string} path
 */
const textOf = (path) => readFile(path, 'utf8').catch(() => '')

/**
 * Returns the bytes of a file that are resident in its mappings.
 *
 * @param {string} smaps
 * @param {string} path
 */
function residentOf(smaps, path) {
  let resident = 0
  const name = ` ${path}\n`
  for (let at = smaps.indexOf(name); at !== -1; at = smaps.indexOf(name, at + 1)) {
    const rss = smaps.indexOf('\nRss:', at)
    if (rss !== -1) resident += parseInt(smaps.slice(rss + '\nRss:'.length), 10) * 1024
  }
  return resident
}

module.exports = { LoadProgress, checkReport, residentOf }
