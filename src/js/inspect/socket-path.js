'use strict'

// The paths of inspect sockets, and the test whether a directory can be trusted. Shared by the inspector and the
// command line.

const { lstatSync, mkdirSync } = require('node:fs')
const { join } = require('node:path')
const { memoryError } = require('../core/errors.js')
const { Buffer } = require('../core/runtime.js')

const NAME = 'rkllm-memory'
/** The longest directory: a socket's address has 107 bytes, the name included. */
const MAX_DIRECTORY = 107 - '/4194304-1000.sock'.length

/** @type {(pid: number, serial: number) => string} */
const socketName = (pid, serial) => `${pid}-${serial}.sock`

/** Returns the id of the user whose sockets this process may use. Every Unix has one. */
const userId = () => /** @type {() => number} */ (process.geteuid)()

/**
 * Returns the process id and the serial number in a socket's name.
 *
 * @param {string} name
 */
function parseName(name) {
  const [, pid, serial] = /^([1-9]\d{0,9})-(\d{1,4})\.sock$/.exec(name) ?? []
  return pid === undefined ? undefined : { pid: Number(pid), serial: Number(serial) }
}

/**
 * Returns the directories where processes of `uid` may have their sockets, the preferred one first.
 *
 * @param {number} uid
 */
function directoriesOf(uid, env = process.env) {
  const runtime = [(uid === userId() && env.XDG_RUNTIME_DIR) || '', `/run/user/${uid}`]
  const directories = runtime
    .filter((path) => path.startsWith('/') && isPrivate(path, uid))
    .map((path) => join(path, NAME))
  return [...new Set([...directories, `/tmp/${NAME}-${uid}`])].filter(
    (path) => Buffer.byteLength(path) <= MAX_DIRECTORY,
  )
}

/** Returns this user's directory, and creates it if it is missing. */
function ownDirectory() {
  const [path] = directoriesOf(userId())
  try {
    mkdirSync(path, { mode: 0o700 })
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'EEXIST') throw error
  }
  if (isPrivate(path, userId())) return path
  throw memoryError('ERR_DEVICE_PERMISSION', `${path} is not a directory that only this user can enter`, {
    path,
    hint: `check its owner (ls -ld ${path}), then remove it, or set XDG_RUNTIME_DIR`,
  })
}

/**
 * Whether `path` is a directory and no symbolic link, belongs to `uid`, and is closed to all other users.
 *
 * @param {string} path
 * @param {number} uid
 */
function isPrivate(path, uid) {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  return stat !== undefined && stat.isDirectory() && stat.uid === uid && (stat.mode & 0o077) === 0
}

module.exports = { directoriesOf, isPrivate, ownDirectory, parseName, socketName, userId }
