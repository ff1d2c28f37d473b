'use strict'

// The client of inspect sockets: finds running managers and requests their figures.

const { lstatSync, readdirSync, statSync } = require('node:fs')
const net = require('node:net')
const { join } = require('node:path')
const { Buffer, clearTimeout, setTimeout } = require('../core/runtime.js')
const { directoriesOf, isPrivate, parseName, userId } = require('../inspect/socket-path.js')

/** How long a busy event loop may take to respond. */
const TIMEOUT_MS = 5000
/** The longest response, larger than any profile: bounds this process's memory. */
const MAX_RESPONSE = 1 << 30
const ADDRESSES = ['address', 'deviceAddress']

/** Why a manager cannot be reached, as a message for the user. */
class AttachError extends Error {
  /** The manager exists and does not respond. */
  busy = false
}

const busyError = () => Object.assign(new AttachError('it does not respond: its event loop is busy'), { busy: true })

/** @typedef {{ path: string, pid: number, serial: number }} Found a socket's path, its process and its manager */
/** @typedef {Record<string, any> & { about: any }} Response the parts that were requested */

/**
 * Lists the sockets of the process `pid` or of all processes of this user, sorted by process. With a `pid`, root also
 * sees processes of other users.
 *
 * @param {number} [pid]
 */
function sockets(pid) {
  const uid = (pid !== undefined && userId() === 0 && ownerOf(pid)) || userId()
  return directoriesOf(uid)
    .filter((directory) => isPrivate(directory, uid))
    .flatMap((directory) => readdirSync(directory).flatMap((name) => socketAt(directory, name)))
    .filter((found) => (pid === undefined || found.pid === pid) && isSocketOf(found.path, uid))
    .sort((a, b) => a.pid - b.pid || a.serial - b.serial)
}

/**
 * @param {string} directory
 * @param {string} name
 * @returns {Found[]} empty if `name` is not that of a socket
 */
function socketAt(directory, name) {
  const parsed = parseName(name)
  return parsed === undefined ? [] : [{ path: join(directory, name), ...parsed }]
}

/** @param {number} pid */
const ownerOf = (pid) => statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid

/**
 * @param {string} path
 * @param {number} uid
 */
function isSocketOf(path, uid) {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  return stat !== undefined && stat.isSocket() && stat.uid === uid
}

/**
 * Sends a request to the manager behind the socket at `path` and returns its response.
 *
 * @param {string} path
 * @param {string[]} want "stats", "usage", "snapshot", "profile", "metrics"
 * @returns {Promise<Response>}
 */
function ask(path, want, timeoutMs = TIMEOUT_MS) {
  return new Promise((resolve, reject) => {
    /** @type {Buffer[]} */
    const pieces = []
    let size = 0
    const socket = net.connect(path, () => socket.write(`${JSON.stringify({ want })}\n`))
    /** @type {(error?: Error, response?: any) => void} */
    const end = (error, response) => {
      clearTimeout(timer)
      socket.destroy()
      if (error === undefined) resolve(response)
      else reject(error)
    }
    const timer = setTimeout(() => end(busyError()), timeoutMs)
    socket.on('error', (error) => end(new AttachError(wordsFor(error))))
    socket.on('close', () => end(new AttachError('it closed the connection')))
    socket.on('data', (piece) => {
      pieces.push(piece)
      size += piece.length
      // A slow response does not time out while pieces arrive.
      timer.refresh?.()
      if (size > MAX_RESPONSE) return end(new AttachError('its response is too long'))
      if (piece.at(-1) !== 10) return
      try {
        const { error, ...response } = JSON.parse(Buffer.concat(pieces).toString(), reviveAddress)
        end(error && new AttachError(error.message), response)
      } catch {
        end(new AttachError('its response is not JSON'))
      }
    })
  })
}

/**
 * A JSON reviver: addresses, which are strings in JSON, become bigints.
 *
 * @param {string} key
 * @param {unknown} value
 */
function reviveAddress(key, value) {
  return ADDRESSES.includes(key) && typeof value === 'string' && /^0x[\da-f]+$/.test(value) ? BigInt(value) : value
}

/** @param {NodeJS.ErrnoException} error */
function wordsFor({ code, message }) {
  if (code === 'ECONNREFUSED' || code === 'ENOENT') return 'its socket no longer exists'
  if (code === 'EACCES') return 'it belongs to another user'
  return message
}

/**
 * Requests figures from every manager of `pid`, and returns the responses. Throws if no manager responds.
 *
 * @param {number} pid
 * @param {string[]} want
 */
async function askProcess(pid, want) {
  const found = sockets(pid)
  const outcomes = await Promise.allSettled(found.map(({ path }) => ask(path, want)))
  const responses = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
  if (responses.length > 0) return responses
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected') throw new AttachError(`process ${pid}: ${outcome.reason.message}`)
  }
  if (ownerOf(pid) === undefined) throw new AttachError(`there is no process ${pid}`)
  if (userId() !== 0 && ownerOf(pid) !== userId()) throw new AttachError(`process ${pid} belongs to another user`)
  throw new AttachError(
    `process ${pid} has no manager that can be inspected: create it with new MemoryManager({ inspect: true })`,
  )
}

module.exports = { AttachError, ask, askProcess, sockets }
