/**
 * Serves a workload: up to BATCH requests at a time, each taking one step in turn. Time is virtual: a step costs the
 * time of a model, and an idle server jumps to the next arrival. The memory management is real.
 */

import { readdirSync, readlinkSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'

import { BATCH, DECODE_SECONDS_PER_STEP, PREFILL_SECONDS_PER_TOKEN } from './model.mjs'
import { Request } from './request.mjs'

/** Listing /proc/self/fd costs more than a step of a small request. */
const STEPS_BETWEEN_FD_COUNTS = 32

export async function serve(workload, options) {
  const { manager, npu, meter, corrupt = null, lose = null, forget = null, onStep = () => {} } = options
  const result = { requests: 0, tokens: 0, wrongBytes: 0, virtualSeconds: 0, maxOpenFds: openFds() }
  const running = new Map()
  let next = 0

  for (let steps = 0; next < workload.length || running.size > 0; steps++) {
    if (running.size === 0) result.virtualSeconds = Math.max(result.virtualSeconds, workload[next].arrival)
    while (running.size < BATCH && next < workload.length && workload[next].arrival <= result.virtualSeconds) {
      const job = workload[next++]
      const forgetSync = job.id === forget?.id ? forget.buffer : null
      running.set(job.id, new Request(job, { manager, npu, meter, forgetSync }))
    }

    let prefilled = 0
    let decoded = 0
    for (const [id, request] of running) {
      if (request.prefilling) prefilled += request.step()
      else decoded += request.step()
      if (!request.done) continue
      if (id === corrupt) request.corruptOneByte()
      request.finish({ keepOne: id === lose })
      result.wrongBytes += request.wrongBytes
      result.requests++
      running.delete(id)
    }
    result.tokens += prefilled + decoded
    result.virtualSeconds += prefilled * PREFILL_SECONDS_PER_TOKEN + (decoded > 0 ? DECODE_SECONDS_PER_STEP : 0)

    if (steps % STEPS_BETWEEN_FD_COUNTS === 0) result.maxOpenFds = Math.max(result.maxOpenFds, openFds())
    onStep({ ...result, running: running.size })
    // Finalizers of ArrayBuffers run when the event loop turns: a server that never yields never frees dropped buffers.
    await nextTurn()
  }
  return result
}

/** Counts open descriptors, without the one that reads the directory. */
export function openFds() {
  return readdirSync('/proc/self/fd').length - 1
}

/**
 * Descriptors that a runtime opens at any time: pipes and sockets for signals, Deno's caches. The demo opens none of
 * them.
 */
const OF_THE_RUNTIME = /^(socket|pipe):|\/deno\//

/** Counts the descriptors that the library can have opened. The demo must end with as many as it began with. */
export function accountableFds() {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return !OF_THE_RUNTIME.test(readlinkSync(`/proc/self/fd/${fd}`))
    } catch {
      return false // the descriptor that read the directory
    }
  }).length
}
