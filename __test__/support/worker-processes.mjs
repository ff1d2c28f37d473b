/** The processes of workers: those that run, and the files that they leave. */

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

/** A runtime directory of these tests, and a mark in the environment of every process that they start. */
export const runtime = mkdtempSync(join(tmpdir(), 'rkllm-run-'))
process.env.XDG_RUNTIME_DIR = runtime
const mark = `RKLLM_TEST_MARK=${(process.env.RKLLM_TEST_MARK = randomBytes(8).toString('hex'))}\0`
after(() => rmSync(runtime, { recursive: true, force: true }))

/** Records of workers, and sockets. */
export const leftFiles = () => (existsSync(`${runtime}/rkllm-memory`) ? readdirSync(`${runtime}/rkllm-memory`) : [])

/** The ids of the processes that these tests started, without zombies. */
export function processes(sign = mark) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => {
      try {
        const isZombie = /\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
        return !isZombie && readFileSync(`/proc/${pid}/environ`, 'utf8').includes(sign)
      } catch {
        return false
      }
    })
    .map(Number)
}

/** Waits until `isDone`; fails after a minute. Returns the milliseconds. */
export async function until(isDone, what) {
  const began = performance.now()
  while (!isDone()) {
    if (performance.now() - began > 60_000) assert.fail(`after a minute: ${what()}`)
    await sleep(5)
  }
  return performance.now() - began
}

export const noProcess = (sign) =>
  until(() => processes(sign).length === 0, () => `processes ${processes(sign).join(', ')} are left`)
