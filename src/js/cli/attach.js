'use strict'

// The other end of inspect sockets: finds the managers that run, and asks them.

const { lstatSync, readdirSync, statSync } = require('node:fs')
const net = require('node:net')
const { join } = require('node:path')
const { directoriesOf, isPrivate, parseName } = require('../inspect/socket-path.js')

/** What an event loop may need to come round to answering. */
const PATIENCE_MS = 5000
/** More than any profile: somebody else's process must not fill this one. */
const MAX_ANSWER = 1 << 30
const ADDRESSES = ['address', 'deviceAddress']

/** Why a manager cannot be asked, in words for the user. */
class AttachError extends Error {
  /** It is there, and does not answer. */
  busy = false
}

const busyError = () => Object.assign(new AttachError('it does not answer: its event loop is busy'), { busy: true })

/**
 * Every socket there is, of the process `pid` or of all processes of this user, the oldest process first. Root sees another user's
 * process when it is named.
 */
function sockets(pid) {
  const uid = (pid !== undefined && process.geteuid() === 0 && ownerOf(pid)) || process.geteuid()
  return directoriesOf(uid)
    .filter((directory) => isPrivate(directory, uid))
    .flatMap((directory) =>
      readdirSync(directory)
        .map((name) => ({ path: join(directory, name), ...parseName(name) }))
        .filter(
          (found) => found.pid !== undefined && (pid === undefined || found.pid === pid) && isSocketOf(found.path, uid),
        ),
    )
    .sort((a, b) => a.pid - b.pid || a.serial - b.serial)
}

const ownerOf = (pid) => statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid

function isSocketOf(path, uid) {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  return stat !== undefined && stat.isSocket() && stat.uid === uid
}

/**
 * What the manager behind the socket at `path` answers.
 *
 * @param {string} path
 * @param {string[]} want "stats", "usage", "snapshot", "profile", "metrics"
 */
function ask(path, want, patience = PATIENCE_MS) {
  return new Promise((resolve, reject) => {
    const pieces = []
    let size = 0
    const socket = net.connect(path, () => socket.write(`${JSON.stringify({ want })}\n`))
    const end = (error, answer) => {
      clearTimeout(timer)
      socket.destroy()
      if (error === undefined) resolve(answer)
      else reject(error)
    }
    const timer = setTimeout(() => end(busyError()), patience)
    socket.on('error', (error) => end(new AttachError(wordsFor(error))))
    socket.on('close', () => end(new AttachError('it closed the connection')))
    socket.on('data', (piece) => {
      pieces.push(piece)
      size += piece.length
      // A slow answer is one as long as it keeps coming.
      timer.refresh?.()
      if (size > MAX_ANSWER) return end(new AttachError('its answer has no end'))
      if (piece.at(-1) !== 10) return
      try {
        const { error, ...answer } = JSON.parse(Buffer.concat(pieces).toString(), revived)
        end(error && new AttachError(error.message), answer)
      } catch {
        end(new AttachError('its answer is not JSON'))
      }
    })
  })
}

/** Addresses are bigints in the library and strings on the wire. */
function revived(key, value) {
  return ADDRESSES.includes(key) && typeof value === 'string' && /^0x[\da-f]+$/.test(value) ? BigInt(value) : value
}

function wordsFor({ code, message }) {
  if (code === 'ECONNREFUSED' || code === 'ENOENT') return 'nobody listens there any more'
  if (code === 'EACCES') return 'it belongs to another user'
  return message
}

/** Asks every manager of `pid`; those that answer. Throws when there are none. */
async function askProcess(pid, want) {
  const found = sockets(pid)
  const answers = await Promise.allSettled(found.map(({ path }) => ask(path, want)))
  const good = answers.filter(({ status }) => status === 'fulfilled').map(({ value }) => value)
  if (good.length > 0) return good
  if (answers.length > 0) throw new AttachError(`process ${pid}: ${answers[0].reason.message}`)
  if (ownerOf(pid) === undefined) throw new AttachError(`there is no process ${pid}`)
  if (process.geteuid() !== 0 && ownerOf(pid) !== process.geteuid())
    throw new AttachError(`process ${pid} belongs to another user`)
  throw new AttachError(
    `process ${pid} has no manager that can be inspected: make it with new MemoryManager({ inspect: true })`,
  )
}

module.exports = { AttachError, ask, askProcess, sockets }
