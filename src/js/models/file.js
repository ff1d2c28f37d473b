'use strict'

// Inspects a model file without the vendor's closed libraries: its size, and whether it is a model.
//
// Public readers of the format (Netron) document the head of a .rknn file: "RKNN", four zeros, a version and the length
// of the rest, 64 bits each. The head of a .rkllm file is not documented: it is only compared with the heads of other
// formats. gguf.js reads a GGUF file's head.

const fs = require('node:fs')
const { memoryError } = require('../core/errors.js')
const { formatBytes } = require('../core/format-bytes.js')
const { Buffer } = require('../core/runtime.js')
const { openError } = require('../core/system-errors.js')

const HEAD = 64
/** No language or vision model is smaller; a truncated download or an error page is. */
const MIN_SIZE = 1024

/** @type {[pattern: RegExp, what: string, hint: string][]} */
const OTHER_FORMATS = [
  [/^version https:\/\/git-lfs/, 'a Git LFS pointer, not the model itself', 'fetch it with "git lfs pull"'],
  [/^\s*<(!doctype|html|\?xml)/i, 'a web page', 'download the file itself, not the page that shows it'],
  [/^PK\x03\x04/, 'a zip archive (or a PyTorch checkpoint)', 'unpack or convert it first'],
  [/^\x7fELF/, 'a program or library', 'name the model file'],
  [/^\x1f\x8b/, 'a gzip archive', 'unpack it first'],
]

/** @typedef {'rkllm' | 'rknn' | 'gguf' | 'safetensors' | 'unknown'} FileKind */

/** @type {(path: string, message: string, hint: string) => import('../types/errors.js').MemoryError} */
const refuse = (path, message, hint) => memoryError('ERR_UNSUPPORTED', `${path} ${message}`, { hint, path })

/** @param {string} path */
function readHead(path) {
  let fd
  try {
    fd = fs.openSync(path, 'r')
    const status = fs.fstatSync(fd)
    if (!status.isFile()) throw refuse(path, 'is not a file', 'name the model file')
    const head = Buffer.alloc(HEAD)
    return { size: status.size, head: head.subarray(0, fs.readSync(fd, head, 0, HEAD, 0)) }
  } catch (reason) {
    const error = /** @type {NodeJS.ErrnoException} */ (reason)
    throw error.syscall === undefined ? error : openError(path, error)
  } finally {
    if (fd !== undefined) fs.closeSync(fd)
  }
}

/**
 * Refuses a file that is no model, and returns what is known of one that is.
 *
 * @param {string} path
 * @returns {{kind: FileKind, size: number, warnings: string[]}}
 */
function inspect(path) {
  const { size, head } = readHead(path)
  if (size === 0) throw refuse(path, 'is empty', 'download or convert it again')
  const text = head.toString('latin1')
  for (const [pattern, what, hint] of OTHER_FORMATS) if (pattern.test(text)) throw refuse(path, `is ${what}`, hint)
  if (head.every((byte) => byte === 0))
    throw refuse(path, 'begins with zeros: it was not written completely', 'download or convert it again')
  if (size < MIN_SIZE)
    throw refuse(path, `has ${formatBytes(size)}: no model is that small`, 'download or convert it again')

  if (/\.rknn$/i.test(path) || text.startsWith('RKNN'))
    return { kind: 'rknn', size, warnings: checkRknn(path, size, head) }
  if (text.startsWith('GGUF')) {
    if (/\.rkllm$/i.test(path))
      throw refuse(
        path,
        'is a GGUF model, in spite of its name',
        'librkllmrt takes .rkllm files: convert the original model with rkllm-toolkit, or name the file .gguf',
      )
    return { kind: 'gguf', size, warnings: [] }
  }
  if (/^[^]{8}\{\s*"/.test(text)) return { kind: 'safetensors', size, warnings: [] }
  if (/\.rkllm$/i.test(path)) return { kind: 'rkllm', size, warnings: [] }
  return {
    kind: 'unknown',
    size,
    warnings: [`${path} ends neither in .rkllm nor in .rknn: its size is taken for that of a .rkllm file`],
  }
}

/**
 * @param {string} path
 * @param {number} size
 * @param {Buffer} head
 */
function checkRknn(path, size, head) {
  const text = head.toString('latin1')
  if (text.startsWith('CYPTRKNN')) return ['the model is encrypted: its head cannot be read']
  if (!text.startsWith('RKNN'))
    throw refuse(
      path,
      'does not begin as .rknn files do',
      'check that the download is complete and that it is a .rknn file',
    )
  const length = head.readBigUInt64LE(16)
  if (length + 24n > BigInt(size)) {
    throw refuse(
      path,
      `is truncated: it has ${formatBytes(size)}, and its head announces ${formatBytes(Number(length))}`,
      'download or copy it again',
    )
  }
  return []
}

module.exports = { inspect }
