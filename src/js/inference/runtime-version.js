'use strict'

// Reads the version that a librkllmrt.so carries, without loading it.
//
// The runtime writes "rkllm-runtime version: 1.2.3" when it starts, so that its read-only data holds the version. A
// library holds many other numbers with dots: of its compiler, and of libraries inside it. A version counts only beside
// the runtime's name, or where it is the only one and the name stands alone. Of two, neither is believed.

const fs = require('node:fs')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { kinds, outOfRange } = require('../core/options.js')
const { Buffer } = require('../core/runtime.js')
const { openError } = require('../core/system-errors.js')
const { compareVersions, versionOf } = require('../core/versions.js')

const PIECE = 1 << 18
/** Longer than each text that is looked for: pieces overlap by it. */
const OVERLAP = 512
/** Texts may begin before what they are found by. */
const MARGIN = 16
/** No runtime is nearly that large: a sparse file would stop the process for minutes. */
const MAX_READ_ONLY = 2 ** 30
const [ELF_HEADER, PROGRAM_HEADER] = [64, 56]
const [LOAD, WRITABLE] = [1, 2]
/** e_machine of the processors of this package. */
const MACHINES = /** @type {Record<string, number>} */ ({ x64: 62, arm64: 183 })
const MACHINE_NAMES = /** @type {Record<number, string>} */ ({ 3: 'x86', 40: '32-bit ARM', 62: 'x64', 183: 'arm64' })

/** The name's spellings. */
const SPELLINGS = ['rkllm', 'RKLLM', 'Rkllm', 'RkLLM']
/** The name, as in "librkllmrt", "rkllm-runtime", "RKLLM SDK", or "RKLLM version". */
const NAME =
  'rkllm(?:(?:rt(?:\\.so)?|[-_ ](?:runtime|sdk|api))[-_ ,]{0,2}\\(?(?:version)?|[-_ ]\\(?version)[-_ :=]{0,3}'
/** The version beside it: "rkllm-runtime version: 1.2.3", "librkllmrt v1.2.3", "RKLLM SDK (version: 1.2.3)". */
const NAMED = new RegExp(`${NAME}v?(\\d{1,3}\\.\\d{1,3}\\.\\d{1,3})(?![\\d.]*\\d)`, 'gi')
/** A format that gets its version from elsewhere: "rkllm-runtime version: %s". */
const FORMAT = new RegExp(`${NAME}%s`, 'i')
/** A text that is a version and nothing else. */
const ALONE = /(?<=\0)v?(\d{1,3}\.\d{1,3}\.\d{1,3})(?=\0)/g

/** @typedef {import('../types/inference.js').RKLLMHeader} RKLLMHeader */

/** @type {import('../core/options.js').Validator<string>} */
const libraryPath = (name, value) => {
  const path = kinds.nonEmptyString(name, value)
  if (path.includes('\0')) throw outOfRange(`${name} has a NUL in it, which no path has`)
  return path
}

/** @type {(path: string, message: string, hint: string) => import('../types/errors.js').MemoryError} */
const refuse = (path, message, hint) => memoryError('ERR_UNSUPPORTED', `${path} ${message}`, { path, hint })

/**
 * Implements `runtimeVersion`.
 *
 * @param {string} library
 */
function runtimeVersion(library) {
  const path = libraryPath('runtimeVersion: library', library)
  let fd
  try {
    // Non-blocking: a FIFO without a writer would hang the process.
    fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
    const status = fs.fstatSync(fd)
    if (!status.isFile()) throw refuse(path, 'is not a file', 'name the library itself: librkllmrt.so')
    return versionIn(fd, readSegments(fd, path, status.size))
  } catch (reason) {
    const error = /** @type {NodeJS.ErrnoException} */ (reason)
    throw error.syscall === undefined ? error : openError(path, error)
  } finally {
    if (fd !== undefined) fs.closeSync(fd)
  }
}

/** @typedef {{ at: number, end: number }} Segment offsets in the file */

/**
 * Reads the head of an ELF library. Returns the segments that the loader maps read-only.
 *
 * @param {number} fd
 * @param {string} path
 * @param {number} size
 * @returns {Segment[]}
 */
function readSegments(fd, path, size) {
  const again = 'copy or download librkllmrt.so again'
  const head = read(fd, 0, ELF_HEADER)
  if (head.length < 4 || head.readUInt32BE(0) !== 0x7f454c46)
    throw refuse(path, 'is not a library: it is no ELF file', 'name librkllmrt.so itself')
  if (head.length < ELF_HEADER) throw refuse(path, `is truncated: it has ${size} bytes`, again)
  const machine = head.readUInt16LE(18)
  const [is64, isLittle] = [head[4] === 2, head[5] === 1]
  if (!is64 || !isLittle || machine !== MACHINES[process.arch]) {
    const bits = is64 ? '' : ', 32 bits'
    const found = MACHINE_NAMES[machine] ?? `machine ${machine}`
    throw refuse(
      path,
      `is a library for ${found}${bits}; this process runs on ${process.arch}`,
      `take the librkllmrt.so for ${process.arch === 'arm64' ? 'aarch64' : process.arch}`,
    )
  }
  const [at, length, count] = [Number(head.readBigUInt64LE(32)), head.readUInt16LE(54), head.readUInt16LE(56)]
  if (count === 0 || length < PROGRAM_HEADER)
    throw refuse(path, 'is not a library: it has no segments to load', 'name librkllmrt.so itself')
  const table = at < size ? read(fd, at, count * length) : head.subarray(0, 0)
  if (table.length < count * length) throw refuse(path, `is truncated: it has ${size} bytes`, again)
  /** @type {Segment[]} */
  const segments = []
  for (let entry = 0; entry < table.length; entry += length) {
    if (table.readUInt32LE(entry) !== LOAD) continue
    const begin = Number(table.readBigUInt64LE(entry + 8))
    const end = begin + Number(table.readBigUInt64LE(entry + 32))
    if (end > size) throw refuse(path, `is truncated: it has ${size} bytes, and its head announces ${end}`, again)
    if ((table.readUInt32LE(entry + 4) & WRITABLE) === 0) segments.push({ at: begin, end })
  }
  const merged = merge(segments)
  const bytes = merged.reduce((sum, { at: begin, end }) => sum + end - begin, 0)
  if (bytes > MAX_READ_ONLY) {
    const found = formatBytes(bytes)
    throw refuse(path, `has ${found} of read-only data: no runtime is that large`, 'name librkllmrt.so itself')
  }
  return merged
}

/**
 * Joins segments that overlap, so that no byte is read twice.
 *
 * @param {Segment[]} segments
 */
function merge(segments) {
  /** @type {Segment[]} */
  const merged = []
  for (const { at, end } of segments.sort((a, b) => a.at - b.at)) {
    const last = merged.at(-1)
    if (last !== undefined && at <= last.end) last.end = Math.max(last.end, end)
    else merged.push({ at, end })
  }
  return merged
}

/**
 * Returns the one version in the segments; null where there is none or more than one.
 *
 * @param {number} fd
 * @param {Segment[]} segments
 */
function versionIn(fd, segments) {
  /** @type {Set<string>} */
  const versions = new Set()
  let hasFormat = false
  for (const { bytes, stop } of pieces(fd, segments)) {
    // A search of bytes is several times as fast as making a text of them.
    if (!SPELLINGS.some((spelling) => bytes.includes(spelling))) continue
    const text = bytes.toString('latin1')
    for (const found of text.matchAll(NAMED)) if (found.index < stop) versions.add(found[1])
    hasFormat ||= FORMAT.test(text)
  }
  if (versions.size === 0 && hasFormat) {
    for (const { bytes, stop } of pieces(fd, segments)) {
      for (const found of bytes.toString('latin1').matchAll(ALONE)) if (found.index < stop) versions.add(found[1])
    }
  }
  const [version] = versions
  return versions.size === 1 ? version : null
}

/**
 * Reads the segments in pieces that overlap. A text that begins before `stop` is whole in its piece; the next piece has
 * the others.
 *
 * @param {number} fd
 * @param {Segment[]} segments
 */
function* pieces(fd, segments) {
  for (const { at, end } of segments) {
    for (let from = at; from < end; from += PIECE - OVERLAP - MARGIN) {
      const bytes = read(fd, from, Math.min(PIECE, end - from))
      const isLast = from + PIECE >= end || bytes.length === 0
      yield { bytes, stop: isLast ? bytes.length : bytes.length - OVERLAP }
      if (isLast) break
    }
  }
}

/**
 * Reads up to `length` bytes at `at`; fewer at the end of the file.
 *
 * @param {number} fd
 * @param {number} at
 * @param {number} length
 */
function read(fd, at, length) {
  const bytes = Buffer.allocUnsafe(length)
  let got = 0
  while (got < length) {
    const more = fs.readSync(fd, bytes, got, length - got, at + got)
    if (more === 0) break
    got += more
  }
  return bytes.subarray(0, got)
}

/** Versions of the runtime and their headers: from the first version, to before the next. */
const KNOWN = /** @type {Array<[first: number[], before: number[], header: RKLLMHeader, name: string]>} */ ([
  [[1, 1, 0], [1, 2, 0], '1.1', '1.1.x'],
  [[1, 2, 0], [1, 2, 1], '1.2.0', '1.2.0'],
  [[1, 2, 1], [1, 2, 4], '1.2', '1.2.1 to 1.2.3'],
  [[1, 3, 0], [1, 4, 0], '1.3', '1.3.x'],
])

/**
 * Returns the header that a library was built with. Refuses one that contradicts `wanted`.
 *
 * @param {string} what
 * @param {string} path
 * @param {RKLLMHeader | undefined} wanted
 * @returns {RKLLMHeader}
 */
function headerOfLibrary(what, path, wanted) {
  const version = runtimeVersion(path)
  if (version === null) {
    if (wanted !== undefined) return wanted
    throw refuse(path, 'does not say its version', 'give header, by the rkllm.h that it came with')
  }
  const numbers = /** @type {number[]} */ (versionOf(version))
  const known = KNOWN.find(
    ([first, before]) => compareVersions(numbers, first) >= 0 && compareVersions(numbers, before) < 0,
  )
  if (known === undefined) {
    const list = KNOWN.map(([, , , name]) => name).join(', ')
    throw refuse(path, `is version ${version}; the structs of ${list} are known`, 'use a librkllmrt.so of one of these')
  }
  const [, , header] = known
  if (wanted !== undefined && wanted !== header) {
    throw memoryError('ERR_UNSUPPORTED', `${what}: header is ${wanted}, and ${path} is version ${version}: ${header}`, {
      path,
      hint: 'leave header out: it is that of the library',
    })
  }
  return header
}

module.exports = { headerOfLibrary, libraryPath, runtimeVersion }
