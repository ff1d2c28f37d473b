#!/usr/bin/env node
/**
 * An OpenAI-compatible server for librkllmrt on Node, Bun and Deno. `--help` lists the options; docs/server.md is the
 * guide. Read on in api.mjs (the routes), jobs.mjs (the work of a request), models.mjs (which model is in memory) and
 * engine.mjs (the runtime, in a process for each model).
 */

import { setTimeout as sleep } from 'node:timers/promises'

import { MemoryManager, runtimeVersion } from '../../index.js'
import { makeHandler } from './api.mjs'
import { ApiError } from './errors.mjs'
import { makeMetrics } from './metrics.mjs'
import { Models } from './models.mjs'
import { HELP, UsageError, readOptions } from './options.mjs'
import { serve } from './serve.mjs'
import { Tenants } from './tenants.mjs'

try {
  const options = readOptions(process.argv.slice(2))
  if (options.help) process.stdout.write(HELP)
  else await start(options)
} catch (error) {
  console.error(error instanceof UsageError || error.code ? error.message : error)
  if (error.hint) console.error(`hint: ${error.hint}`)
  process.exit(error instanceof UsageError ? 2 : 1)
}

async function start(options) {
  const tenants = Tenants.read(options.tenants)
  // Imported where it is asked for: an installed package has no __test__/.
  const understudy = options.understudy && (await import('./understudy.mjs')).makeUnderstudy(options.header)
  const { library } = understudy || options
  const version = runtimeVersion(library)
  const models = options.models.map(({ file, hidden, ram, ...model }) => ({
    ...model, library, version, understudy: options.understudy,
    file: file ?? understudy.file, hidden: hidden ?? understudy.hidden, ram: ram ?? understudy.ram,
    // From 1.3 on each run has sampling and a length of its own.
    samplesByRun: version?.startsWith('1.3.') === true,
  }))

  const memory = new MemoryManager({
    limits: tenants.limits,
    // Requests free their memory themselves: a forced collection would find nothing, and stop the event loop.
    cleanup: { onExhaustion: false },
    ...(understudy && { backend: 'simulated', simulated: options.simulated }),
  })
  const served = new Models(memory, { ...options, models, started: Math.floor(Date.now() / 1000) })
  await served.load()

  const metrics = makeMetrics(memory, served, options.queue)
  const server = { memory, models: served, metrics, tenants, options }
  const listener = await serve(makeHandler(server), options)
  const stop = makeStop({ ...server, listener })
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => stop(signal))

  if (understudy) console.log('No model: the understudy of librkllmrt answers with text that means nothing.')
  console.log(`${models.map(({ name }) => name).join(', ')}: librkllmrt ${version}`)
  console.log(`listening on ${listener.url}`)
}

/** Returns what a signal does: the first drains the server, a second one ends its requests at once. */
function makeStop({ memory, models, metrics, options, listener }) {
  let [stopping, abort] = [false, () => {}]
  const aborted = new Promise((resolve) => (abort = resolve))
  aborted.then(() => models.abort(new ApiError(503, 'shutting_down', 'the server has ended', { retryAfter: 5 })))

  return async function stop(signal) {
    if (stopping) return abort()
    stopping = true
    console.log(`${signal}: ${models.waiting} requests wait; they may take ${options.drainSeconds} s`)
    const timer = setTimeout(abort, 1000 * options.drainSeconds)
    const sent = listener.close()
    await models.close('the server is shutting down')
    // A client that does not read its answer may have a second more after the deadline.
    await Promise.race([sent, aborted.then(() => sleep(1000))])
    clearTimeout(timer)
    await models.unload()
    const { liveAllocations, npuUsed, systemUsed } = memory.getMemoryStats()
    const left = { liveAllocations, npuUsed, systemUsed }
    const eventLoopDelayP99Ms = metrics.delayP99()
    metrics.end()
    await memory.disposeAsync()
    console.log(JSON.stringify({ left, eventLoopDelayP99Ms }))
    // Connections that are kept alive would keep the process alive too.
    process.exit(Object.values(left).every((count) => count === 0) ? 0 : 1)
  }
}
