'use strict'

// Replaces a file atomically.

const { randomBytes } = require('node:crypto')
const { open, rename, unlink } = require('node:fs/promises')
const { dirname, join } = require('node:path')
const { memoryError } = require('../core/errors.js')
const { formatValue } = require('../core/options.js')

/** @type {Record<string, import('../types/errors.js').MemoryErrorCode>} */
const CODES = { EMFILE: 'ERR_TOO_MANY_FDS', ENFILE: 'ERR_TOO_MANY_FDS', ENOMEM: 'ERR_OUT_OF_MEMORY' }

/** @type {Record<string, string>} */
const HINTS = {
  ENOENT: 'create its directory first',
  ENOTDIR: 'a part of the path is a file, not a directory',
  EISDIR: 'a directory has that name',
  EACCES: 'this process may not write there',
  EPERM: 'this process may not write there',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the file system is full',
  EDQUOT: "this user's quota is used up",
  EMFILE: 'close descriptors, or raise the limit (ulimit -n)',
}

/**
 * @param {string} path
 * @param {NodeJS.ErrnoException} error
 */
function failed(path, error) {
  const { code = '', errno, syscall } = error
  if (syscall === undefined && errno === undefined) return error
  const figures = { path, syscall, errno: typeof errno === 'number' ? Math.abs(errno) : undefined, hint: HINTS[code] }
  const known = Object.fromEntries(Object.entries(figures).filter(([, figure]) => figure !== undefined))
  return memoryError(
    CODES[code] ?? 'ERR_DEVICE_IO',
    `the report ${formatValue(path)} cannot be written: ${code || error.message}`,
    known,
    {
      cause: error,
    },
  )
}

/**
 * Writes `content` to a file beside `path`, syncs it to disk, and renames it to `path`.
 *
 * @param {string} path
 * @param {string | Uint8Array} content
 */
async function replaceFile(path, content) {
  const draft = join(dirname(path), `.rkllm-report-${randomBytes(8).toString('hex')}`)
  let file
  try {
    file = await open(draft, 'wx')
    await file.writeFile(content)
    await file.sync()
    await file.close()
    await rename(draft, path)
  } catch (error) {
    if (file !== undefined) {
      await file.close().catch(() => {})
      await unlink(draft).catch(() => {})
    }
    throw failed(path, /** @type {NodeJS.ErrnoException} */ (error))
  }
}

module.exports = { replaceFile }
