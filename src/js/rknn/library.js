'use strict'

// Reads the version that a librknnrt.so carries, without loading it: "librknnrt version: 2.3.2 (429f97ae6b@...)", which
// it writes to its log when it starts (rknn-api.md §1).

const fs = require('node:fs')
const { memoryError } = require('../core/errors.js')
const { openError } = require('../core/system-errors.js')
const { Buffer } = require('../core/runtime.js')
const { compareVersions, versionOf } = require('../core/versions.js')
const { HEADERS } = require('./numbers.js')

const PIECE = 1 << 18
/** Longer than the text: pieces overlap by it. */
const OVERLAP = 64
/** No runtime is nearly that large: a sparse file would stop the process for minutes. */
const MAX_BYTES = 2 ** 28
const NAME = 'librknnrt version: '
const NAMED = /librknnrt version: (\d{1,3}\.\d{1,3}\.\d{1,3})(?![\d.]*\d)/g

/** @typedef {import('../types/rknn.js').RknnHeader} RknnHeader */

/**
 * Returns the one version in a file; null where it has none, or more than one.
 *
 * @param {string} path
 */
function versionIn(path) {
  let fd
  try {
    // Non-blocking: a FIFO without a writer would hang the process.
    fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
    const status = fs.fstatSync(fd)
    if (!status.isFile() || status.size > MAX_BYTES) throw refuse(path, 'is no runtime', 'name librknnrt.so itself')
    /** @type {Set<string>} */
    const versions = new Set()
    const bytes = Buffer.allocUnsafe(PIECE)
    for (let at = 0; at < status.size; at += PIECE - OVERLAP) {
      const piece = bytes.subarray(0, fs.readSync(fd, bytes, 0, PIECE, at))
      if (!piece.includes(NAME)) continue
      for (const [, version] of piece.toString('latin1').matchAll(NAMED)) versions.add(version)
    }
    const [version = null] = versions
    return versions.size === 1 ? version : null
  } catch (error) {
    throw /** @type {any} */ (error).syscall === undefined ? error : openError(path, /** @type {any} */ (error))
  } finally {
    if (fd !== undefined) fs.closeSync(fd)
  }
}

/**
 * Returns the header that a library was built with: later ones than 2.1 keep its structs. Refuses one that contradicts
 * `wanted`.
 *
 * @param {string} what
 * @param {string} path
 * @param {RknnHeader | undefined} wanted
 * @returns {RknnHeader}
 */
function headerOfLibrary(what, path, wanted) {
  const version = versionIn(path)
  if (version === null) {
    if (wanted !== undefined) return wanted
    throw refuse(path, 'does not say its version', 'give header, by the rknn_api.h that it came with')
  }
  const numbers = /** @type {number[]} */ (versionOf(version))
  const header = HEADERS.findLast((one) => compareVersions(numbers, /** @type {number[]} */ (versionOf(one))) >= 0)
  if (header === undefined) throw refuse(path, `is version ${version}; 1.3 and later are known`, 'update the runtime')
  if (wanted !== undefined && wanted !== header) {
    throw memoryError('ERR_UNSUPPORTED', `${what}: header is ${wanted}, and ${path} is version ${version}: ${header}`, {
      path,
      hint: 'leave header out: it is that of the library',
    })
  }
  return header
}

/** @type {(path: string, message: string, hint: string) => Error} */
const refuse = (path, message, hint) => memoryError('ERR_UNSUPPORTED', `${path} ${message}`, { path, hint })

module.exports = { headerOfLibrary }
