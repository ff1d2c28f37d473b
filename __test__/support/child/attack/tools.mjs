/** The manager under attack, its neighbours, and the helpers of all attacks. */

import assert from 'node:assert/strict'
import { Worker } from 'node:worker_threads'

import { open } from '../open.mjs'

export const [name, how] = process.argv.slice(2)
export const objects = how === 'objects'
export const { deno, bun } = process.versions
export const node = deno || bun ? 0 : Number(process.versions.node.split('.')[0])
export const can = { transfer: typeof ArrayBuffer.prototype.transfer === 'function' }

export const manager = open(objects ? { slabs: { threshold: 0 } } : {})
export const SIZES = objects ? [4096, 65536, 1 << 20] : [100, 4096, 65536]
/** Counts of expected refusals, by code. */
export const refusals = {}

export const fresh = (size = SIZES[1], from = manager) => from.allocateNPUMemory(size)
export const fill = (buffer, value) => new Uint8Array(buffer).fill(value)
export const holds = (buffer, value) => new Uint8Array(buffer).every((byte) => byte === value)

/** Runs a call that may fail with one of these codes, and with no other error. */
export function may(codes, call) {
  try {
    return call()
  } catch (error) {
    if (!codes.includes(error.code)) throw error
    refusals[error.code] = (refusals[error.code] ?? 0) + 1
  }
}
export const free = (buffer, ...also) =>
  may(['ERR_BUFFER_BUSY', 'ERR_BUFFER_TRANSFERRED', 'ERR_BUFFER_FREED', ...also], () => manager.deallocate(buffer))
/** Ignores the runtime's own refusals. */
export const quietly = (call) => {
  try {
    return call()
  } catch {
    return undefined
  }
}

export function worker(source, workerData) {
  const made = new Worker(source, {
    eval: true,
    workerData: { index: new URL('../../../../index.js', import.meta.url).href, ...workerData },
  })
  made.failed = new Promise((_, reject) => made.on('error', reject))
  made.failed.catch(() => {})
  made.next = () => Promise.race([new Promise((resolve) => made.once('message', resolve)), made.failed])
  made.ended = new Promise((resolve) => made.once('exit', resolve))
  return made
}

/** Prints the result, and exits without the runtime's own cleanup. */
export function leave() {
  check()
  report()
  process.reallyExit ? process.reallyExit(0) : process.exit(0)
}

export const neighbours = SIZES.flatMap((size) => Array.from({ length: 4 }, () => fresh(size)))
neighbours.forEach((buffer) => fill(buffer, 0x77))
export function check() {
  assert.ok(neighbours.every((buffer) => holds(buffer, 0x77)), 'a neighbour lost its bytes')
}
export function report() {
  console.log(JSON.stringify({ refusals, left: [] }))
}
