// Measures a lease of a loaded model beside a call of an async function. Counts the processor's time, so that other
// work on the machine matters less.
//   node benchmark/residency-use.mjs [CALLS]

import { MemoryManager } from '../index.js'

const CALLS = Number(process.argv[2] ?? 20_000)
const MODELS = 8
const ROUNDS = 5
/** The goal, in µs. */
const GOAL = 20

const memory = new MemoryManager({ backend: 'simulated' })
const names = Array.from({ length: MODELS }, (_, i) => `m${i}`)
const models = memory.createModelResidency({
  models: Object.fromEntries(names.map((name) => [name, { ramBytes: 1 << 20, load: () => ({ name }) }])),
})
for (const name of names) await models.preload(name)

const plain = async (work) => work({ name: 'm0' })

/** Microseconds of one call, the median of all rounds. */
async function measure(call) {
  const rounds = []
  for (let round = 0; round < ROUNDS; round++) {
    const began = process.cpuUsage()
    for (let i = 0; i < CALLS; i++) await call()
    const { user, system } = process.cpuUsage(began)
    rounds.push((user + system) / CALLS)
  }
  return rounds.sort((a, b) => a - b)[ROUNDS >> 1]
}

const work = (model) => model.name
const rows = [
  ['an async function', await measure(() => plain(work))],
  ['use', await measure(() => models.use('m0', work))],
  ['use with a deadline', await measure(() => models.use('m0', work, { timeoutMs: 1000 }))],
  ['use with a signal', await measure(() => models.use('m0', work, { signal: new AbortController().signal }))],
  ['acquire and release', await measure(async () => (await models.acquire('m0')).release())],
]
console.log(`${MODELS} models loaded; µs a call, the median of ${ROUNDS} rounds of ${CALLS}`)
for (const [what, micros] of rows) console.log(`${what.padEnd(24)} ${micros.toFixed(2).padStart(8)}`)
const [, [, use]] = rows
console.log(`goal of use: at most ${GOAL} µs: ${use <= GOAL ? 'reached' : 'MISSED'}`)
if (use > GOAL) process.exitCode = 1
memory.dispose()
