// Reads the test driver's counters, and makes its calls fail.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { createRequire } from 'node:module'

export const { MemoryManager, MemoryError, probeDevices } = createRequire(import.meta.url)('../../../index.js')

export const backend = process.env.RKLLM_TEST_BACKEND

const PROC = '/proc/rknpu_test'

/** Returns the counters by name; empty in a scenario without the test driver. */
export const counters = () =>
  existsSync(PROC)
    ? Object.fromEntries(
        readFileSync(PROC, 'utf8')
          .trim()
          .split('\n')
          .map((line) => line.split(' '))
          .map(([k, v]) => [k, Number(v)]),
      )
    : {}

/** Returns the names and the counts of live kernel objects. */
export const alive = () => Object.entries(counters()).filter(([name, n]) => name.startsWith('live_') && n !== 0)

export const set = (parameter, value) => writeFileSync(`/sys/module/rknpu_test/parameters/${parameter}`, String(value))

/** Waits until the driver has no live object: the library frees on a separate thread. */
export async function settled(seconds = 5) {
  for (let left = seconds * 20; left > 0 && alive().length > 0; left--) {
    globalThis.gc?.()
    await sleep(50)
  }
  return alive().map(([name, n]) => `${name} ${n}`).join(', ')
}

export function fail(message) {
  console.log(`failed: ${message}`)
  process.exit(1)
}
