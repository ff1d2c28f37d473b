/**
 * Manages the memory of an LLM server. Requests of a real trace (or of a generator fitted to one) allocate token ids,
 * embeddings, logits and a growing KV cache from a MemoryManager. They write, sync, read back, check and free them. The
 * demo runs on the simulated RK3588, whose caches are not coherent, so it needs no board. It exits with 1 if one byte
 * was wrong or one buffer was lost.
 *
 * Read on in request.mjs (how a request uses its memory) and server.mjs (the loop).
 */

import { parseArgs } from 'node:util'

import { MemoryManager, SimulatedNPU } from '../../index.js'
import { makeProgress } from '../../src/js/cli/progress.js'
import { BATCH } from './model.mjs'
import { Meter } from './meter.mjs'
import { SYNCED } from './request.mjs'
import { accountableFds, openFds, serve } from './server.mjs'
import { bytes, duration, integer, table } from './table.mjs'
import { generateWorkload, readTrace } from './workload.mjs'

const DEFAULT_REQUESTS = 1500
const DEFAULT_SEED = 1

const HELP = `Serves an LLM workload on the simulated RK3588 and checks every byte that it wrote.

  npm run demo -- [options]

  --trace FILE    requests from a CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens: the format of
                  https://github.com/Azure/AzurePublicDataset (default: a generator fitted to that trace)
  --requests N    number of requests (default: ${DEFAULT_REQUESTS}, or the whole trace)
  --seed N        seed of the generator (default: ${DEFAULT_SEED})
  --report FILE   profile the run, and write a report when nine of ten requests were served:
                  .html .json .csv .pb.gz .trace.json .prom
  --corrupt       flip one byte half-way, to show that the check finds it
  --lose          forget one buffer half-way, to show that the check finds it
  --forget-sync BUFFER
                  leave out the syncs of one request's ${SYNCED.join(', ')}, to show that the check finds it
  --help          print this text
`

try {
  process.exitCode = await main()
} catch (error) {
  // A MemoryError has a hint for the user. The stack of any other error is for the developer of this demo.
  console.error(error.code ? `${error.code}: ${error.message}` : error)
  if (error.hint) console.error(`hint: ${error.hint}`)
  process.exitCode = 1
}

async function main() {
  const options = parseOptions()
  if (options.help) {
    process.stdout.write(HELP)
    return 0
  }
  const workload = options.trace
    ? readTrace(options.trace, options.requests)
    : generateWorkload(options.requests ?? DEFAULT_REQUESTS, options.seed)
  const source = options.trace ?? `generated, seed ${options.seed}`

  // Prints before the descriptors are counted: a stream opens descriptors of its own at its first write.
  console.log(`${integer(workload.length)} requests (${source}), ${BATCH} at a time`)
  // Timers on Bun open some as well.
  await new Promise((resolve) => setTimeout(resolve, 1))
  const fdsBefore = openFds()
  const accountable = accountableFds()
  const manager = new MemoryManager({
    backend: 'simulated',
    simulated: { caches: 'incoherent' },
    profiling: options.report !== undefined,
  })
  console.log(`on ${describeDevice(manager.device)}`)

  const meter = new Meter(manager)
  const progress = makeProgress(process.stderr, workload.length)
  const halfWay = workload[workload.length >> 1].id
  let report
  const startedAt = performance.now()
  const result = await serve(workload, {
    manager,
    npu: new SimulatedNPU(manager),
    meter,
    forget: options['forget-sync'] && { id: halfWay, buffer: options['forget-sync'] },
    corrupt: options.corrupt ? halfWay : null,
    lose: options.lose ? halfWay : null,
    onStep: ({ requests, tokens, running }) => {
      progress.update(requests, () => {
        const { npuUsed } = manager.getMemoryStats()
        return `${integer(requests)} served, ${running} running, ${integer(tokens)} tokens, NPU ${bytes(npuUsed)}`
      })
      if (options.report && requests >= workload.length * 0.9) report ??= manager.writeReport(options.report)
    },
  })
  const seconds = (performance.now() - startedAt) / 1000
  progress.clear()

  await report
  if (report) console.log(`Report: ${options.report}`)
  await settled(manager)
  const stats = manager.getMemoryStats()
  // Ends the waits of freed slices, and gives their slabs back. An empty slab may stay; every other object is lost.
  manager.optimizeMemory({ defragment: false })
  await settled(manager)
  const { objects: left, slabs } = manager.getNPUMemoryStats()
  const objects = left - (slabs.reserved > 0 && slabs.allocated === 0 ? 1 : 0)
  manager.dispose()
  // The watch of memory pressure ends a second after the last manager, and the kernel takes a moment to close its
  // triggers.
  for (let waited = 0; accountableFds() > accountable && waited < 5000; waited += 10) {
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  const fdsAfter = openFds()
  const fdsLeft = accountableFds() - accountable

  const counted = meter.allocate.count - meter.deallocate.count
  const lost = Math.max(counted, stats.liveAllocations) + meter.stillAttached
  console.log(summary({ result, seconds, meter, stats, objects, fdsBefore, fdsAfter, lost }))

  const faults = []
  if (result.requests !== workload.length) faults.push(`${workload.length - result.requests} requests were not served`)
  if (result.wrongBytes > 0) faults.push(`${integer(result.wrongBytes)} bytes were wrong`)
  if (lost > 0) faults.push(`${integer(lost)} buffers were lost`)
  if (objects > 0 && lost === 0) faults.push(`${integer(objects)} kernel objects were left`)
  if (fdsLeft > 0) faults.push(`${fdsLeft} file descriptors were left open`)
  if (faults.length > 0) {
    console.error(`FAILED: ${faults.join('; ')}`)
    return 1
  }
  console.log('Every byte was right and every buffer came back.')
  return 0
}

function parseOptions() {
  const { values } = parseArgs({
    options: {
      trace: { type: 'string' },
      requests: { type: 'string' },
      seed: { type: 'string' },
      report: { type: 'string' },
      corrupt: { type: 'boolean', default: false },
      lose: { type: 'boolean', default: false },
      'forget-sync': { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  const number = (name, least) => {
    if (values[name] === undefined) return undefined
    const value = Number(values[name])
    if (Number.isSafeInteger(value) && value >= least) return value
    throw Object.assign(new Error(`--${name} must be a whole number from ${least} up, not "${values[name]}"`), {
      code: 'ERR_PARSE_ARGS_INVALID_OPTION_VALUE',
    })
  }
  const forgotten = values['forget-sync']
  if (forgotten !== undefined && !SYNCED.includes(forgotten)) {
    throw Object.assign(new Error(`--forget-sync must be one of ${SYNCED.join(', ')}, not "${forgotten}"`), {
      code: 'ERR_PARSE_ARGS_INVALID_OPTION_VALUE',
    })
  }
  return { ...values, requests: number('requests', 1), seed: number('seed', 0) ?? DEFAULT_SEED }
}

function describeDevice({ soc, backend, simulated, iommuDomains, domainBytes }) {
  const name = soc?.toUpperCase() ?? backend
  return `${simulated ? 'a simulated ' : ''}${name} with ${iommuDomains} IOMMU domains of ${bytes(domainBytes)}`
}

/** Waits for frees of a slow driver, which can end after deallocate() returned. */
async function settled(manager) {
  const deadline = Date.now() + 30_000
  while (manager.getNPUMemoryStats().pendingFree > 0 && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

function summary({ result, seconds, meter, stats, objects, fdsBefore, fdsAfter, lost }) {
  const percentiles = (latencies) => latencies.quantiles([0.5, 0.99, 0.999]).map(microseconds).join(' / ')
  return table([
    ['Requests served', integer(result.requests)],
    ['Tokens', integer(result.tokens)],
    ['Time', `${duration(seconds)} (virtual: ${duration(result.virtualSeconds)})`],
    null,
    ['Peak NPU memory', bytes(stats.npuPeak)],
    ['Peak system memory', bytes(stats.systemPeak)],
    ['Allocations', integer(meter.allocate.count)],
    ['Allocations per second', integer(meter.allocate.count / seconds)],
    ['allocate   p50 / p99 / p99.9', percentiles(meter.allocate)],
    ['deallocate p50 / p99 / p99.9', percentiles(meter.deallocate)],
    ['File descriptors: before / max / after', `${fdsBefore} / ${result.maxOpenFds} / ${fdsAfter}`],
    null,
    ['Kernel objects left, beside the empty slab kept', integer(objects)],
    ['Bytes wrong', integer(result.wrongBytes)],
    ['Buffers lost', integer(lost)],
  ])
}

function microseconds(value) {
  return `${value < 100 ? value.toFixed(1) : integer(value)} µs`
}
