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

/** Non-blocking: a FIFO without a writer would hang the process. */
const OPEN_FLAGS = fs.constants.O_RDONLY | fs.constants.O_NONBLOCK
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

/**
 * A step of a search: it asks for `length` bytes at `at`, and gets fewer at the end of the file. The same search runs
 * on the event loop's thread and beside it.
 *
 * @template T
 * @typedef {Generator<{ at: number, length: number }, T, Buffer>} Search
 */

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
    fd = fs.openSync(path, OPEN_FLAGS)
    const search = versionOfFile(path, fs.fstatSync(fd))
    let step = search.next()
    while (!step.done) {
      const bytes = Buffer.allocUnsafe(step.value.length)
      step = search.next(bytes.subarray(0, read(fd, bytes, step.value.at)))
    }
    return step.value
  } catch (error) {
    throw readError(path, error)
  } finally {
    if (fd !== undefined) fs.closeSync(fd)
  }
}

/**
 * Implements `runtimeVersionAsync`.
 *
 * @param {string} library
 */
async function runtimeVersionAsync(library) {
  const path = libraryPath('runtimeVersionAsync: library', library)
  let file
  try {
    file = await fs.promises.open(path, OPEN_FLAGS)
    const search = versionOfFile(path, await file.stat())
    let step = search.next()
    while (!step.done) {
      const { at, length } = step.value
      const bytes = Buffer.allocUnsafe(length)
      let got = 0
      while (got < length) {
        const { bytesRead } = await file.read(bytes, got, length - got, at + got)
        if (bytesRead === 0) break
        got += bytesRead
      }
      step = search.next(bytes.subarray(0, got))
    }
    return step.value
  } catch (error) {
    throw readError(path, error)
  } finally {
    await file?.close()
  }
}

/** @type {(path: string, reason: unknown) => unknown} */
const readError = (path, reason) => {
  const error = /** @type {NodeJS.ErrnoException} */ (reason)
  return error.syscall === undefined ? error : openError(path, error)
}

/**
 * @param {string} path
 * @param {fs.Stats} status
 * @returns {Search<string | null>}
 */
function* versionOfFile(path, status) {
  if (!status.isFile()) throw refuse(path, 'is not a file', 'name the library itself: librkllmrt.so')
  return yield* versionIn(yield* readSegments(path, status.size))
}

/** @typedef {{ at: number, end: number }} Segment offsets in the file */

/**
 * Reads the head of an ELF library. Returns the segments that the loader maps read-only.
 *
 * @param {string} path
 * @param {number} size
 * @returns {Search<Segment[]>}
 */
function* readSegments(path, size) {
  const again = 'copy or download librkllmrt.so again'
  const head = yield { at: 0, length: ELF_HEADER }
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
  const table = at < size ? yield { at, length: count * length } : head.subarray(0, 0)
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
 * @param {Segment[]} segments
 * @returns {Search<string | null>}
 */
function* versionIn(segments) {
  /** @type {Set<string>} */
  const versions = new Set()
  let hasFormat = false
  yield* eachPiece(segments, (bytes, stop) => {
    // A search of bytes is several times as fast as making a text of them.
    if (!SPELLINGS.some((spelling) => bytes.includes(spelling))) return
    const text = bytes.toString('latin1')
    for (const found of text.matchAll(NAMED)) if (found.index < stop) versions.add(found[1])
    hasFormat ||= FORMAT.test(text)
  })
  if (versions.size === 0 && hasFormat) {
    yield* eachPiece(segments, (bytes, stop) => {
      for (const found of bytes.toString('latin1').matchAll(ALONE)) if (found.index < stop) versions.add(found[1])
    })
  }
  const [version] = versions
  return versions.size === 1 ? version : null
}

/**
 * Reads the segments in pieces that overlap. A text that begins before `stop` is whole in its piece; the next piece has
 * the others.
 *
 * @param {Segment[]} segments
 * @param {(bytes: Buffer, stop: number) => void} search
 * @returns {Search<void>}
 */
function* eachPiece(segments, search) {
  for (const { at, end } of segments) {
    for (let from = at; from < end; from += PIECE - OVERLAP - MARGIN) {
      const bytes = yield { at: from, length: Math.min(PIECE, end - from) }
      const isLast = from + PIECE >= end || bytes.length === 0
      search(bytes, isLast ? bytes.length : bytes.length - OVERLAP)
      if (isLast) break
    }
  }
}

/**
 * Fills `bytes` from `at` on. Returns their count, less than all at the end of the file.
 *
 * @param {number} fd
 * @param {Buffer} bytes
 * @param {number} at
 */
function read(fd, bytes, at) {
  let got = 0
  while (got < bytes.length) {
    const more = fs.readSync(fd, bytes, got, bytes.length - got, at + got)
    if (more === 0) break
    got += more
  }
  return got
}

/** Versions of the runtime and their headers: from the first version, to before the next. */
const KNOWN = /** @type {Array<[first: number[], before: number[], header: RKLLMHeader, name: string]>} */ ([
  [[1, 1, 0], [1, 2, 0], '1.1', '1.1.x'],
  [[1, 2, 0], [1, 2, 1], '1.2.0', '1.2.0'],
  [[1, 2, 1], [1, 2, 4], '1.2', '1.2.1 to 1.2.3'],
  [[1, 3, 0], [1, 4, 0], '1.3', '1.3.x'],
])

/**
 * Returns the header of a library of `version`. Refuses one that contradicts `wanted`.
 *
 * @param {string} what
 * @param {string} path
 * @param {string | null} version
 * @param {RKLLMHeader | undefined} wanted
 * @returns {RKLLMHeader}
 */
function headerOfLibrary(what, path, version, wanted) {
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

module.exports = { headerOfLibrary, libraryPath, runtimeVersion, runtimeVersionAsync }
