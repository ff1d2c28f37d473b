'use strict'

// Errors of the engine, the runtime and the operating system, as MemoryErrors: what failed, why, and the remedy.

const { isNativeError } = require('node:util/types')
const { MemoryError, memoryError } = require('./errors.js')

/** @typedef {import('../types/errors.js').MemoryErrorCode} MemoryErrorCode */
/** @typedef {{ code: MemoryErrorCode, hint: string }} Known */

/** @type {Known} */
const NO_DESCRIPTOR = { code: 'ERR_TOO_MANY_FDS', hint: 'close descriptors, or raise the limit (ulimit -n)' }
/** @type {(hint: string) => Known} */
const failed = (hint) => ({ code: 'ERR_DEVICE_IO', hint })

/** @type {Record<string, Known>} */
const KNOWN = {
  EMFILE: NO_DESCRIPTOR,
  ENFILE: NO_DESCRIPTOR,
  ENOMEM: { code: 'ERR_OUT_OF_MEMORY', hint: 'free memory, or raise the limit of this process or cgroup' },
  EACCES: failed('this process may not write there'),
  EPERM: failed('this process may not write there'),
  ERR_ACCESS_DENIED: {
    code: 'ERR_DEVICE_PERMISSION',
    hint: "Node's permission model forbids it: start node with --allow-fs-read=PATH or --allow-fs-write=PATH",
  },
  ENOENT: failed('create its directory first'),
  ENOTDIR: failed('a part of the path is a file, not a directory'),
  EISDIR: failed('a directory has that name'),
  EROFS: failed('the file system is read-only'),
  ENOSPC: failed('the file system is full'),
  EDQUOT: failed("this user's quota is used up"),
  EFBIG: failed('raise the limit of file sizes (ulimit -f unlimited)'),
  MODULE_NOT_FOUND: failed('a file of @rkllmjs/memory is missing: install the package again'),
}

/** The flag that grants a permission of Node's permission model, by the permission's name. */
const FLAGS = new Map([
  ['ChildProcess', '--allow-child-process'],
  ['WorkerThreads', '--allow-worker'],
  ['Net', '--allow-net'],
])

/** @type {(error: any) => string | undefined} */
const flagHint = ({ permission }) =>
  FLAGS.has(permission) ? `Node's permission model forbids it: start node with ${FLAGS.get(permission)}` : undefined

/**
 * The MemoryError for `error`, if the runtime or the operating system made it; undefined for any other error.
 *
 * @param {string} what failed, as the start of a sentence
 * @param {unknown} error
 * @param {string} [path]
 */
function systemError(what, error, path) {
  const { code = '', errno, syscall, message, path: own } = /** @type {NodeJS.ErrnoException} */ (Object(error))
  const known = Object.hasOwn(KNOWN, code) ? KNOWN[code] : undefined
  if (known === undefined && syscall === undefined && errno === undefined) return undefined
  const figures = {
    path: path ?? own,
    syscall,
    errno: typeof errno === 'number' ? Math.abs(errno) : undefined,
    hint: flagHint(Object(error)) ?? known?.hint,
  }
  const present = Object.fromEntries(Object.entries(figures).filter(([, figure]) => figure !== undefined))
  return memoryError(known?.code ?? 'ERR_DEVICE_IO', `${what}: ${code || message}`, present, { cause: error })
}

/** The errors that an engine throws: of a revoked proxy, for example. */
const ENGINE_ERRORS = new Set(['TypeError', 'RangeError', 'ReferenceError', 'SyntaxError', 'URIError', 'EvalError'])

/**
 * The error that a caller sees in place of `error`. An error that the caller's own code threw, in an accessor or an
 * iterator, stays as it is: no code and no class of the engine.
 *
 * @param {string} what failed
 * @param {unknown} error
 */
function callersError(what, error) {
  if (!isNativeError(error) || error instanceof MemoryError) return error
  // Making an error needs stack too.
  if (error.name === 'RangeError' && error.message.includes('call stack')) return error
  const system = systemError(`${what} failed`, error)
  if (system !== undefined) return system
  if (!ENGINE_ERRORS.has(error.name) && !('code' in error)) return error
  return memoryError('ERR_INVALID_ARG_TYPE', `${what} failed: ${error.message}`, {}, { cause: error })
}

/**
 * The error of a file that the caller named and that cannot be opened or read.
 *
 * @param {string} path
 * @param {NodeJS.ErrnoException} error
 */
function openError(path, error) {
  const cause = { cause: error }
  if (error.code === 'EACCES' || error.code === 'EPERM') {
    const hint = 'let this user read it: chmod, or chown'
    return memoryError('ERR_DEVICE_PERMISSION', `${path} may not be read by this user`, { path, hint }, cause)
  }
  if (error.code === 'ENOENT') {
    const hint = 'check its spelling; a relative path begins at the working directory'
    return memoryError('ERR_DEVICE_IO', `${path} does not exist`, { path, hint }, cause)
  }
  return systemError(`${path} cannot be read`, error, path) ?? error
}

module.exports = { callersError, openError, systemError }
