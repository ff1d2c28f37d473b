/** Opens the device under test in child processes, as helpers.mjs does, but without node:test. */

import { readdirSync, readlinkSync } from 'node:fs'

import { MemoryManager } from '../../../index.js'

export function open(options = {}) {
  const backend = process.env.RKLLM_TEST_BACKEND ?? 'simulated'
  return new MemoryManager({ backend, device: process.env.RKLLM_TEST_DEVICE || undefined, ...options })
}

/**
 * Matches descriptors that do not count: the directory being read, Deno's sockets and module caches, and pressure
 * triggers, which the kernel frees after some 50 ms.
 */
const OTHERS = /\/fd$|^socket:|\/deno\/|\/pressure\/memory$|\/memory\.(pressure|events)$/

/** Returns "descriptor target" of each open file. */
export function openFiles() {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`)
      return OTHERS.test(target) ? [] : [`${fd} ${target}`]
    } catch {
      return []
    }
  })
}

export const openFds = () => openFiles().length

/**
 * Returns the number of open files once it is at most `expected`, or after five seconds. A thread that frees late, or
 * reads a file of /proc, has one more open for a moment.
 */
export function fdsAtMost(expected) {
  const clock = new Int32Array(new SharedArrayBuffer(4))
  for (let waited = 0; openFds() > expected && waited < 5000; waited++) Atomics.wait(clock, 0, 0, 1)
  return openFds()
}
