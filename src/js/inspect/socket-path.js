'use strict'

// Where inspect sockets are, and whether such a place is to be trusted. What serves them and what attaches to them both ask here.

const { lstatSync, mkdirSync } = require('node:fs')
const { join } = require('node:path')
const { memoryError } = require('../core/errors.js')

const NAME = 'rkllm-memory'
/** What a socket's address holds, less the name of a socket. */
const MAX_DIRECTORY = 107 - '/4194304-1000.sock'.length

const socketName = (pid, serial) => `${pid}-${serial}.sock`

/** The process whose socket is called `name`. */
function parseName(name) {
  const [, pid, serial] = /^([1-9]\d{0,9})-(\d{1,4})\.sock$/.exec(name) ?? []
  return pid === undefined ? undefined : { pid: Number(pid), serial: Number(serial) }
}

/** Every place where a process of `uid` may have its sockets; the first is preferred. */
function directoriesOf(uid, env = process.env) {
  const runtime = [uid === process.geteuid() ? env.XDG_RUNTIME_DIR : undefined, `/run/user/${uid}`]
  const places = runtime.filter((path) => path?.startsWith('/') && isPrivate(path, uid)).map((path) => join(path, NAME))
  return [...new Set([...places, `/tmp/${NAME}-${uid}`])].filter((path) => Buffer.byteLength(path) <= MAX_DIRECTORY)
}

/** This user's directory, made where it is missing. */
function ownDirectory() {
  const [path] = directoriesOf(process.geteuid())
  try {
    mkdirSync(path, { mode: 0o700 })
  } catch (error) {
    if (error.code !== 'EEXIST') throw error
  }
  if (isPrivate(path, process.geteuid())) return path
  throw memoryError('ERR_DEVICE_PERMISSION', `${path} is not a directory that only this user can enter`, {
    path,
    hint: `see whose it is (ls -ld ${path}), then remove it, or set XDG_RUNTIME_DIR`,
  })
}

/** Whether `path` is a directory, no symbolic link, of `uid` and closed to everybody else. */
function isPrivate(path, uid) {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  return stat !== undefined && stat.isDirectory() && stat.uid === uid && (stat.mode & 0o077) === 0
}

module.exports = { directoriesOf, isPrivate, ownDirectory, parseName, socketName }
