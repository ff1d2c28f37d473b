/**
 * A soak: runs a server's workload for hours, prints what the process holds by the minute as a table, and at the end
 * what grew from the first third to the last. Exit status 1 if something grew, was lost, or had wrong bytes.
 *
 *   npm run soak -- --hours 1
 */

import { appendFileSync, writeFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'

import args from '../../src/js/cli/args.js'
import progress from '../../src/js/cli/progress.js'
import { given, machine, number, optionsOf } from '../options.mjs'
import { collected, footprint, processorTime } from './footprint.mjs'
import { verdictOf } from './verdict.mjs'
import { Workload } from './workload.mjs'

const COMMAND = 'npm run soak --'
const { wholeNumber } = args
/** Milliseconds from tick to tick of the delay's timer. A measured delay contains them. */
const RESOLUTION = 1

const values = optionsOf(COMMAND, 'Runs the workload of a server and watches what the process holds.', {
  hours: { type: 'string', value: 'H', text: 'how long; default 1', parse: number(0.001, 1000, 'hours') },
  live: { type: 'string', value: 'N', text: 'live buffers; default 100000', parse: wholeNumber(100, 1_000_000) },
  tags: { type: 'string', value: 'N', text: 'new tags a minute; default 1000', parse: wholeNumber(1, 1_000_000) },
  rate: { type: 'string', value: 'N', text: 'buffers replaced a second; default 2000', parse: wholeNumber(1, 1e6) },
  latency: { type: 'string', value: 'MS', text: "the driver's time a call; default 40", parse: wholeNumber(0, 60_000) },
  workers: { type: 'string', value: 'N', text: 'threads a minute; default 12', parse: wholeNumber(1, 600) },
  every: { type: 'string', value: 'S', text: 'seconds a row; default 60', parse: number(1, 3600, 'seconds') },
  seed: { type: 'string', value: 'N', text: 'of the random numbers; default 1', parse: wholeNumber(0, 2 ** 32 - 1) },
  csv: { type: 'string', value: 'FILE', text: 'also write the rows to FILE, with exact bytes' },
})
const { hours = 1, live = 100_000, tags = 1000, rate = 2000, latency = 40, workers = 12, every = 60, seed = 1 } = values

const [MiB, GiB] = [2 ** 20, 2 ** 30]
/** Column → its width and how it shows a row's figure. */
const COLUMNS = [
  ['minute', 6, ({ minute }) => minute.toFixed(1)],
  ['replaced', 9, ({ replaced }) => replaced],
  ['live', 7, (row) => row.live],
  ['tags', 6, (row) => row.tags],
  ['waiting MiB', 11, ({ waiting }) => (waiting / MiB).toFixed(1)],
  ['lost', 4, (row) => row.lost],
  ['wrong', 5, (row) => row.wrong],
  ['RSS MiB', 7, ({ rss }) => (rss / MiB).toFixed(0)],
  ['heap MiB', 8, ({ heap }) => (heap / MiB).toFixed(0)],
  ['maps', 6, ({ maps }) => maps],
  ['fds', 5, ({ fds }) => fds],
  ['objects', 7, ({ objects }) => objects],
  ['space GiB', 9, ({ vm }) => (vm / GiB).toFixed(2)],
  ['loop p50', 8, ({ p50 }) => p50.toFixed(2)],
  ['p99 ms', 7, ({ p99 }) => p99.toFixed(2)],
  ['max ms', 7, ({ max }) => max.toFixed(1)],
  ['ran s', 6, ({ ran }) => (ran / 1000).toFixed(1)],
  ['queued s', 8, ({ waited }) => (waited / 1000).toFixed(1)],
  ['load', 5, ({ load }) => load.toFixed(1)],
]
const line = (cells) => cells.map((cell, at) => String(cell).padStart(COLUMNS[at][1])).join('  ')

console.log(`${machine()}\n${given(COMMAND)}`)
console.log(
  `${hours} h, ${live} live buffers, ${rate} replaced a second, ${tags} new tags and ${workers} threads a minute, ` +
    `a driver of ${latency} ms a call\n`,
)
const before = globalThis.gc === undefined ? footprint() : await collected()
const workload = new Workload({ live, tags, latency, rate, workers, seed })
const filling = progress.makeProgress(process.stderr, live)
await workload.fill((done) => filling.update(done, () => `${done} of ${live} buffers`))
filling.clear()

const rows = []
console.log(line(COLUMNS.map(([name]) => name)))
const delay = monitorEventLoopDelay({ resolution: RESOLUTION })
const began = performance.now()
const total = hours * 3_600_000
const bar = progress.makeProgress(process.stderr, total)
let failure
const running = workload.run().catch((error) => {
  failure = error
  workload.stop()
})
delay.enable()
let processor = processorTime()
for (let next = every * 1000; failure === undefined && performance.now() - began < total; next += every * 1000) {
  const until = Math.min(next, total)
  while (failure === undefined && performance.now() - began < until) {
    await sleep(100)
    const now = performance.now() - began
    bar.update(now, () => `minute ${(now / 60_000).toFixed(1)} of ${(total / 60_000).toFixed(1)}`)
  }
  bar.clear()
  // Reading the figures counts mappings and tags: that is not the workload's delay.
  delay.disable()
  addRow()
  delay.enable()
}
workload.stop()
await running
const left = await workload.end()
const figures = async () => (globalThis.gc === undefined ? footprint() : await collected())
let after = await figures()
// The watch of memory pressure ends a second after the last manager.
for (let waited = 0; after.fds > before.fds && waited < 3000; waited += 100) {
  await sleep(100)
  after = await figures()
}

const { grew, compared } = verdictOf(rows)
const faults = [
  ...(failure === undefined ? [] : [`the workload ended with ${failure.stack}`]),
  ...grew,
  ...(left > 0 ? [`${left} buffers were left after every one was freed`] : []),
  ...(after.fds > before.fds + 4 ? [`descriptors: ${before.fds} before, ${after.fds} after dispose`] : []),
]
console.log('\nmedians      first third    last third')
for (const { figure, first, last, grew: more } of compared)
  console.log(`${figure.padEnd(10)} ${shown(figure, first)} ${shown(figure, last)}${more ? '  GREW' : ''}`)
if (compared.length === 0) console.log('too few rows to compare')
console.log(
  `\nbefore and after: descriptors ${before.fds} → ${after.fds}, mappings ${before.maps} → ${after.maps}, ` +
    `RSS ${(before.rss / MiB).toFixed(0)} → ${(after.rss / MiB).toFixed(0)} MiB`,
)
for (const fault of faults) console.log(`FAILED: ${fault}`)
if (faults.length === 0) console.log('Nothing grew, nothing was lost, and every byte was right.')
process.exit(faults.length === 0 ? 0 : 1)

function shown(figure, value) {
  const text = ['rss', 'heap', 'vm', 'waiting'].includes(figure)
    ? `${(value / MiB).toFixed(1)} MiB`
    : String(Math.round(value * 100) / 100)
  return text.padStart(13)
}

function addRow() {
  const ms = (nanoseconds) => Math.max(0, nanoseconds / 1e6 - RESOLUTION)
  const [p50, p99, max] = [ms(delay.percentile(50)), ms(delay.percentile(99)), ms(delay.max)]
  const now = processorTime()
  const row = {
    minute: (performance.now() - began) / 60_000,
    replaced: workload.operations,
    ...footprint(),
    ...workload.figures(),
    wrong: workload.wrong,
    p50,
    p99,
    max,
    ran: now.ran - processor.ran,
    waited: now.waited - processor.waited,
    load: loadavg()[0],
  }
  processor = now
  workload.operations = 0
  rows.push(row)
  console.log(line(COLUMNS.map(([, , cell]) => cell(row))))
  if (values.csv !== undefined) {
    if (rows.length === 1) writeFileSync(values.csv, `${Object.keys(row).join(',')}\n`)
    appendFileSync(values.csv, `${Object.values(row).join(',')}\n`)
  }
  delay.reset()
}
