'use strict'

// Reads a model's file straight into NPU memory: no copy of it is on the JavaScript heap or in other memory.

const fs = require('node:fs')
const { memoryError } = require('../core/errors.js')
const { outOfRange } = require('../core/options.js')
const { openError } = require('../core/system-errors.js')
const { MAX_SIZE } = require('./spec.js')

/** Bytes of one read: an abort waits for no more than one. */
const PIECE = 16 << 20
/** Non-blocking: a FIFO without a writer would hang the process. */
const FLAGS = fs.constants.O_RDONLY | fs.constants.O_NONBLOCK

/** @type {(path: string, error: any) => unknown} */
const converted = (path, error) => (error?.syscall === undefined ? error : openError(path, error))

/**
 * @param {string} path
 * @param {fs.Stats} status
 */
function sizeOf(path, status) {
  if (!status.isFile()) {
    throw memoryError('ERR_UNSUPPORTED', `${path} is not a file`, { path, hint: 'name a .rknn file' })
  }
  if (status.size < 1 || status.size > MAX_SIZE) {
    throw outOfRange(`${path} has ${status.size} bytes; rknn_init takes from 1 to ${MAX_SIZE}`, {
      requested: status.size,
      limit: MAX_SIZE,
      path,
    })
  }
  return status.size
}

/** @type {(path: string, at: number, size: number) => Error} */
const shrunk = (path, at, size) =>
  memoryError('ERR_DEVICE_IO', `${path} ended at ${at} of its ${size} bytes while it was read`, { path })

/**
 * @param {string} path
 * @param {(size: number) => ArrayBuffer} allocate
 */
function readModel(path, allocate) {
  let fd
  try {
    fd = fs.openSync(path, FLAGS)
    const size = sizeOf(path, fs.fstatSync(fd))
    const buffer = allocate(size)
    const bytes = new Uint8Array(buffer)
    for (let at = 0; at < size;) {
      const got = fs.readSync(fd, bytes, at, Math.min(PIECE, size - at), at)
      if (got === 0) throw shrunk(path, at, size)
      at += got
    }
    return buffer
  } catch (error) {
    throw converted(path, error)
  } finally {
    if (fd !== undefined) fs.closeSync(fd)
  }
}

/**
 * @param {string} path
 * @param {(size: number) => Promise<ArrayBuffer>} allocate
 * @param {AbortSignal} [signal]
 */
async function readModelAsync(path, allocate, signal) {
  let file
  try {
    file = await fs.promises.open(path, FLAGS)
    const size = sizeOf(path, await file.stat())
    const buffer = await allocate(size)
    for (let at = 0; at < size;) {
      signal?.throwIfAborted()
      const bytes = new Uint8Array(buffer, at, Math.min(PIECE, size - at))
      const { bytesRead } = await file.read(bytes, 0, bytes.length, at)
      if (bytesRead === 0) throw shrunk(path, at, size)
      at += bytesRead
    }
    return buffer
  } catch (error) {
    throw converted(path, error)
  } finally {
    await file?.close()
  }
}

module.exports = { readModel, readModelAsync }
