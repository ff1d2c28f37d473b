#!/usr/bin/env node
/**
 * An OpenAI-compatible server for librkllmrt on Node, Bun and Deno. `--help` lists the options; docs/server.md is the
 * guide. Read on in api.mjs (the routes), jobs.mjs (the work of a request) and model.mjs (the runtime).
 */

import { setTimeout as sleep } from 'node:timers/promises'

import { MemoryManager } from '../../index.js'
import { makeHandler } from './api.mjs'
import { ApiError } from './errors.mjs'
import { makeMetrics } from './metrics.mjs'
import { Model } from './model.mjs'
import { HELP, UsageError, readOptions } from './options.mjs'
import { Queue } from './queue.mjs'
import { serve } from './serve.mjs'
import { Tenants } from './tenants.mjs'

/** The exit status of a server whose model hangs, or that left memory: a supervisor starts it again. */
const FAILED = 1

try {
  const options = readOptions(process.argv.slice(2))
  if (options.help) process.stdout.write(HELP)
  else await start(options)
} catch (error) {
  console.error(error instanceof UsageError || error.code ? error.message : error)
  if (error.hint) console.error(`hint: ${error.hint}`)
  process.exit(error instanceof UsageError ? 2 : FAILED)
}

async function start(options) {
  const tenants = Tenants.read(options.tenants)
  // Imported where it is asked for: an installed package has no __test__/.
  const understudy = options.understudy && (await import('./understudy.mjs')).makeUnderstudy(options.header)
  const { library, file, hidden } = understudy || { ...options, file: options.model }
  const memory = new MemoryManager({
    limits: tenants.limits,
    // Requests free their memory themselves: a forced collection would find nothing, and stop the event loop.
    cleanup: { onExhaustion: false },
    ...(understudy && { backend: 'simulated', simulated: options.simulated }),
  })
  const model = await Model.load(memory, {
    id: options.name, file, library, context: options.context, hidden, stallMs: options.stallMs,
    param: { domain: options.domain },
  }).finally(() => understudy && understudy.remove())

  const queue = new Queue(options.queue)
  const metrics = makeMetrics(memory, queue)
  const server = { memory, model, queue, metrics, tenants, options, onStuck: () => end.stuck() }
  const listener = await serve(makeHandler(server), options)
  const end = makeEnd({ ...server, listener })
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => end.drain(signal))

  if (understudy) console.log('No model: the understudy of librkllmrt answers with text that means nothing.')
  const { header, ffi } = model
  console.log(`${model.id}: rkllm.h ${header} by ${ffi}, ${options.context} tokens of context`)
  console.log(`listening on ${listener.url}`)
}

/** The ways in which the server ends. */
function makeEnd({ memory, model, queue, metrics, options, listener }) {
  let [ending, abort] = [false, () => {}]
  const aborted = new Promise((resolve) => (abort = resolve))
  aborted.then(() => queue.abort(new ApiError(503, 'shutting_down', 'the server has ended', { retryAfter: 5 })))

  async function drain(signal) {
    if (ending) return abort()
    ending = true
    console.log(`${signal}: ${queue.waiting} requests wait; they may take ${options.drainMs / 1000} s`)
    const timer = setTimeout(abort, options.drainMs)
    const sent = listener.close()
    await queue.close('the server is shutting down')
    // A client that does not read its answer may have a second more after the deadline.
    await Promise.race([sent, aborted.then(() => sleep(1000))])
    clearTimeout(timer)
    // No run is left. The runtime ends before the memory that it reads; then the manager ends.
    model.destroy()
    const { liveAllocations, npuUsed, systemUsed } = memory.getMemoryStats()
    const delay = metrics.delayP99()
    metrics.end()
    await memory.disposeAsync()
    console.log(JSON.stringify({ left: { liveAllocations, npuUsed, systemUsed }, eventLoopDelayP99Ms: delay ?? null }))
    // Without this, koffi and Deno unload the library under threads of its own that it may have left.
    process.exit(liveAllocations === 0 && npuUsed === 0 && systemUsed === 0 ? 0 : FAILED)
  }

  /** Nothing ends a run that hangs but the end of the process: waiting requests are refused, then it ends. */
  async function stuck() {
    if (ending) return
    ending = true
    console.error(`${model.id} hangs: the server ends, and its memory with it`)
    const sent = listener.close()
    await queue.close('the model hangs: this server restarts')
    await Promise.race([sent, sleep(1000)])
    process.exit(FAILED)
  }

  return { drain, stuck }
}
