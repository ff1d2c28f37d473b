/** For child processes: the device under test, as in helpers.mjs, but without its node:test. */

import { readdirSync, readlinkSync } from 'node:fs'

import { MemoryManager } from '../../../index.js'

export function open(options = {}) {
  const backend = process.env.RKLLM_TEST_BACKEND ?? 'simulated'
  return new MemoryManager({ backend, device: process.env.RKLLM_TEST_DEVICE || undefined, ...options })
}

/**
 * What is open without being ours, or not for long: the directory that is read, sockets and notes about modules of
 * Deno's own, and triggers for memory pressure, which the kernel takes some 50 ms to take back.
 */
const OTHERS = /\/fd$|^socket:|\/deno\/|\/pressure\/memory$|\/memory\.(pressure|events)$/

/** "descriptor target" of each. */
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
