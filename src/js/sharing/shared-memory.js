'use strict'

// Implements the manager's methods that share memory: with other processes as dma-bufs, with other threads by tokens.

const native = require('../core/binding.js')
const { byteLengthOf } = require('../core/buffers.js')
const { check, integer, invalid, kinds, formatValue } = require('../core/options.js')
const { disposeAtExit } = require('./dispose-at-exit.js')

/** The options of `importDmaBuf`. */
const importOptions = { offset: kinds.integer(0), size: kinds.integer(1), tag: kinds.tag }

/**
 * @typedef {object} SharingHost the parts of a manager that sharing calls
 * @property {import('../core/manager-handle.js').ManagerHandle} handle
 * @property {import('../reclaim/refusals.js').Refusals} refusals
 * @property {{ allocated(): void }} processLimits
 * @property {{ allocateWithReclaim<T>(allocate: () => T, wanted: object): T }} reclaimer
 * @property {SharingAllocator} allocator
 * @property {() => void} keepPinned
 *
 * @typedef {object} SharingAllocator
 * @property {(buffer: unknown) => ArrayBuffer} liveBuffer
 * @property {(made: [ArrayBuffer, number]) => ArrayBuffer} allocated
 * @property {(start: () => any, signal?: AbortSignal) => Promise<ArrayBuffer>} allocatedBy
 * @property {(buffer: ArrayBuffer) => number | undefined} handleAmongShared
 * @property {() => void} markShared
 */

/**
 * @param {SharingHost} host
 * @param {unknown} buffer
 */
function exportDmaBuf({ handle, allocator, processLimits }, buffer) {
  const exported = native.exportDmaBuf(handle.open(), allocator.liveBuffer(buffer))
  processLimits.allocated()
  return exported
}

/**
 * @param {SharingHost} host
 * @param {number} fd
 * @param {unknown} options
 * @returns {ArrayBuffer}
 */
function importDmaBuf({ handle, allocator, refusals }, fd, options) {
  const manager = handle.open()
  integer('fd', fd, 0, 2 ** 31 - 1)
  const { offset = 0, size, tag } = check('importDmaBuf', options, importOptions)
  try {
    return allocator.allocated(native.importDmaBuf(manager, fd, offset, size, tag))
  } catch (error) {
    throw refusals.final(error, { kind: 'npu', size, tag })
  }
}

/**
 * @param {SharingHost} host
 * @param {number} fd
 * @param {unknown} options
 * @returns {Promise<ArrayBuffer>}
 */
async function importDmaBufAsync({ handle, allocator, refusals }, fd, options) {
  handle.open()
  integer('fd', fd, 0, 2 ** 31 - 1)
  const schema = { ...importOptions, signal: kinds.signal }
  const { offset = 0, size, tag, signal } = check('importDmaBufAsync', options, schema)
  if (signal?.aborted) throw signal.reason
  try {
    return await allocator.allocatedBy(
      () => native.importDmaBufAsync(handle.open(), fd, offset, size, tag),
      signal,
    )
  } catch (error) {
    throw refusals.final(error, { kind: 'npu', size, tag })
  }
}

/**
 * @param {SharingHost} host
 * @param {unknown} buffer
 * @returns {import('../types/sharing.js').SharedBufferToken}
 */
function share({ handle, allocator }, buffer) {
  const manager = handle.open()
  const live = allocator.liveBuffer(buffer)
  const token = native.share(manager, live, allocator.handleAmongShared(live))
  allocator.markShared()
  return Object.freeze({ token, size: byteLengthOf(live) })
}

/**
 * @param {SharingHost} host
 * @param {{ token: string, size: number }} token
 * @param {import('./dispose-at-exit.js').Disposable} manager
 */
function adopt(host, token, manager) {
  const { handle, allocator, reclaimer } = host
  const opened = handle.open()
  const name = tokenOf(token)
  const wanted = { kind: null, size: token.size, shared: name }
  const made = reclaimer.allocateWithReclaim(() => native.adopt(opened, name), wanted)
  allocator.markShared()
  disposeAtExit(manager, host)
  return allocator.allocated(made)
}

/**
 * @param {SharingHost & { asyncAllocations: import('../pools/pool-host.js').PoolAsyncAllocations }} host
 * @param {{ token: string, size: number }} token
 * @param {unknown} options
 * @param {import('./dispose-at-exit.js').Disposable} manager
 */
async function adoptAsync(host, token, options, manager) {
  const { handle, allocator, asyncAllocations } = host
  handle.open()
  const name = tokenOf(token)
  const { signal } = check('adoptAsync', options, { signal: kinds.signal })
  const attempt = () => {
    // Calls no driver: the memory is mapped already.
    const made = native.adopt(handle.open(), name)
    allocator.markShared()
    disposeAtExit(manager, host)
    return allocator.allocated(made)
  }
  return asyncAllocations.allocate(attempt, { kind: null, size: token.size, shared: name }, signal)
}

/**
 * The native token in a result of `share`, made here or in another thread.
 *
 * @param {unknown} token
 */
function tokenOf(token) {
  if (typeof token !== 'object' || token === null) {
    throw invalid(`the token must be what share() returned, not ${formatValue(token)}`)
  }
  const { token: name } = /** @type {{ token?: unknown }} */ (token)
  if (typeof name !== 'string') {
    throw invalid(`the token must be what share() returned; its token is ${formatValue(name)}`)
  }
  return name
}

module.exports = { adopt, adoptAsync, exportDmaBuf, importDmaBuf, importDmaBufAsync, share }
