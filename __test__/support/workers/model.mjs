// A worker's module for tests: its methods return, stream, fail, hang, end the process, and start others.

import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'

let context

export async function load(given) {
  context = given
  const { args, signal, progress } = given
  if (args[0] === 'report') progress(...JSON.parse(args[1]))
  // Reads its file, and then hangs.
  if (args[0] === 'read') {
    readFileSync(args[1])
    await new Promise(() => setInterval(() => {}, 1000))
  }
  if (args.includes('throw')) throw new Error('E RKNN: failed to malloc npu memory, size: 4022272000, flags: 0x2')
  if (args.includes('exit')) {
    console.error('[ 12.345] Out of memory: Killed process 4711 (llm_demo) total-vm:9000000kB, anon-rss:7000000kB')
    process.exit(7)
  }
  if (args.includes('never')) await new Promise(() => setInterval(() => {}, 1000))
  if (args.includes('group')) spawn('sleep', ['1000'], { stdio: 'ignore' })
  if (args.includes('session')) spawn('sleep', ['1000'], { stdio: 'ignore', detached: true }).unref()
  signal.throwIfAborted()
}

export const about = () => {
  const { name, domain, args, estimate } = context
  return { name, domain, args, total: estimate.total, pid: process.pid }
}
export const echo = (...args) => args
export const wait = (signal) =>
  new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
export function fail() {
  throw Object.assign(new RangeError('mine'), { code: 'MINE' })
}
export const end = () => process.kill(process.pid, 'SIGKILL')
export function hang() {
  for (;;);
}
export const never = () => new Promise(() => {})
export const notData = () => () => 1

/** Counts the items that were made, for the test of the window. */
let made = 0
export const items = () => made
export async function* count(to, options = {}) {
  for (made = 0; made < to; ) {
    if (options.signal?.aborted) return 'aborted'
    yield made++
  }
  return 'end'
}
export async function* failing() {
  yield 1
  throw new Error('after one')
}
/** A plain function whose result is a generator. */
export const later = async (to) => count(to)
