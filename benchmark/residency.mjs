/**
 * Serves eight models that do not fit together, in virtual time, by several policies: how much they load, and how long
 * requests wait.
 *
 *   node benchmark/residency.mjs [--trace FILE] [--every N] [--seeds N]
 *
 * FILE is AzureLLMInferenceTrace_code.csv of github.com/Azure/AzurePublicDataset (CC-BY). Without it an hour with the
 * same means and bursts is generated. The core of residency is driven as in production, through its events and
 * commands. So are LRU, the clairvoyant policy, and the one that knows popularity: they replace the cost of an eviction
 * only. Ollama's scheduler has its own queue. Bytes are added up by the simulated machine.
 */

import { given, machine, optionsOf } from './options.mjs'
import { generate, readTrace, thin, withModels } from './residency/arrivals.mjs'
import { BOARDS, MODELS, STORAGES } from './residency/boards.mjs'
import { clairvoyant, core, fewestBytes, knowsPopularity, ollama } from './residency/policies.mjs'
import { World } from './residency/world.mjs'
import args from '../src/js/cli/args.js'

const ZIPF_EXPONENT = 1
const PHASE_MS = 20 * 60_000
const GiB = 2 ** 30

const { trace: path, every, seeds = 8 } = optionsOf('node benchmark/residency.mjs', 'Policies of residency.', {
  trace: { type: 'string', value: 'FILE', text: 'arrivals: Azure\'s trace; default: generated ones' },
  every: {
    type: 'string', value: 'N', text: 'serves one of N requests; default: by board', parse: args.wholeNumber(1, 1000),
  },
  seeds: { type: 'string', value: 'N', text: 'runs of each; default 8', parse: args.wholeNumber(1, 1000) },
})

const OURS = 'ours'
const OLLAMA = 'Ollama\'s'
const CLAIRVOYANT = 'clairvoyant'
const POLICIES = {
  [OURS]: core({ policyOf: () => 'cost' }),
  'ours, unloads after 5 min': core({ policyOf: () => 'cost', keepAliveMs: 300_000 }),
  LRU: core({ policyOf: () => 'lru' }),
  [OLLAMA]: ollama({}),
  'Ollama\'s, no limit of models or time': ollama({ maxLoaded: Infinity, keepAliveMs: Infinity }),
  'knows the popularity': core({ policyOf: knowsPopularity }),
  [CLAIRVOYANT]: core({ policyOf: clairvoyant }),
}

const trace = path === undefined ? null : readTrace(path)

/** The requests of a run: the same ones for every policy. */
function requestsOf(seed, thinning) {
  const rows = trace === null ? generate(thinning, seed) : thin(trace, thinning, seed)
  return withModels(rows, { models: MODELS, exponent: ZIPF_EXPONENT, phaseMs: PHASE_MS, seed })
}

function simulate(serve, board, speed, runs) {
  const total = { bytes: 0, loads: 0, over: 0, waits: [] }
  for (const [seed, requests] of runs.entries()) {
    const world = new World({ models: MODELS, board, speed, seed })
    const check = serve(world, { requests, models: MODELS, board, seed })
    world.run()
    check()
    total.bytes += world.bytesLoaded
    total.loads += world.loads
    total.over = Math.max(total.over, world.overCommitted)
    total.waits.push(...world.waits)
  }
  total.waits.sort((a, b) => a - b)
  return total
}

const HEAD = `| policy | GiB an hour | loads | waiting p50, s | p99, s | : clairvoyant | : Ollama's | over-committed |
|---|---|---|---|---|---|---|---|`

const partOf = (sorted, part) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] / 1000

console.log(machine())
console.log(given('node benchmark/residency.mjs'))
const goals = []
for (const board of BOARDS) {
  const thinning = every ?? board.every
  const runs = Array.from({ length: seeds }, (_, seed) => requestsOf(seed, thinning))
  const requests = runs.reduce((sum, { length }) => sum + length, 0)
  const fewest = runs.reduce((sum, run) => sum + fewestBytes({ requests: run, models: MODELS, board }), 0)
  for (const { name, speed } of STORAGES) {
    const totals = new Map(Object.entries(POLICIES).map(([policy, serve]) => {
      return [policy, simulate(serve, board, speed, runs)]
    }))
    const place = `${board.name}, ${name}`
    console.log(`\n${place}; one of ${thinning} requests: ${Math.round(requests / seeds)} an hour`)
    console.log(HEAD)
    for (const [policy, { bytes, loads, over, waits }] of totals) {
      const ratios = [CLAIRVOYANT, OLLAMA].map((peer) => (bytes / totals.get(peer).bytes).toFixed(2))
      const figures = [(bytes / GiB / seeds).toFixed(0), (loads / seeds).toFixed(0)]
      const waiting = [0.5, 0.99].map((part) => partOf(waits, part).toFixed(1))
      console.log(`| ${[policy, ...figures, ...waiting, ...ratios, over].join(' | ')} |`)
    }
    console.log(`in order of arrival, if serving took no time, at least ${(fewest / GiB / seeds).toFixed(0)} GiB`)
    const [ours, theirs, best] = [OURS, OLLAMA, CLAIRVOYANT].map((policy) => totals.get(policy))
    goals.push(
      [place, 'bytes : clairvoyant', ours.bytes / best.bytes, 1.25],
      [place, 'bytes : Ollama\'s', ours.bytes / theirs.bytes, 0.85],
      [place, 'p99 waiting : Ollama\'s', partOf(ours.waits, 0.99) / partOf(theirs.waits, 0.99), 1],
      [place, 'bytes over-committed', ours.over, 0],
    )
  }
}
const missed = goals.filter(([, , figure, most]) => figure > most)
console.log(`\n${goals.length - missed.length} of ${goals.length} goals are reached`)
for (const [place, what, figure, most] of missed)
  console.log(`missed: ${place}: ${what} is ${figure.toFixed(2)}, to reach ${most}`)
