/** The processes of workers: those that run, and the files that they leave. */

import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { until } from './until.mjs'

/** A runtime directory of these tests, and a mark in the environment of every process that they start. */
export const runtimeDirectory = mkdtempSync(join(tmpdir(), 'rkllm-run-'))
process.env.XDG_RUNTIME_DIR = runtimeDirectory
const mark = `RKLLM_TEST_MARK=${(process.env.RKLLM_TEST_MARK = randomBytes(8).toString('hex'))}\0`
after(() => rmSync(runtimeDirectory, { recursive: true, force: true }))

const records = join(runtimeDirectory, 'rkllm-memory')
/** Records of workers, and sockets. */
export const leftFiles = () => (existsSync(records) ? readdirSync(records) : [])

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

export const noProcess = (sign) =>
  until(() => processes(sign).length === 0, () => `processes ${processes(sign).join(', ')} are left`)

/**
 * Kills workers of a residency at random moments, `kills` in all, and calls `killed` after each.
 *
 * @param {import('../../index.js').ModelResidency} models
 * @param {{ kills: number, everyMs: number, random: (below: number) => number, killed: () => void }} how
 */
export async function killAtRandom(models, { kills, everyMs, random, killed }) {
  for (let done = 0; done < kills; ) {
    await sleep(random(everyMs))
    const all = models.stats().models
    const { pid } = all[random(all.length)]
    if (pid === null) continue
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It ended between the two calls.
      continue
    }
    done++
    killed()
  }
}
