/**
 * Prints what operations cost at the size of a server: medians and 99.9th percentiles, each beside a peer of the same
 * run, which is the same operation at a tenth of the size, or the synchronous call.
 *
 *   node benchmark/scale.mjs [--quick] [--json] [--row WORD]
 */

import args from '../src/js/cli/args.js'
import progress from '../src/js/cli/progress.js'
import { given, machine, optionsOf } from './options.mjs'
import { rows as loading } from './scale/loading.mjs'
import { rows as loop } from './scale/loop.mjs'
import { rows as sizes } from './scale/sizes.mjs'

/**
 * @typedef {import('./scale/measure.mjs').Figures} Figures
 * @typedef {object} Row
 * @property {string} name
 * @property {number} [sizes] the size; the peer has a tenth
 * @property {string} [sides] what the peer and the subject are, where they are not sizes
 * @property {string} unit
 * @property {string} reach
 * @property {number} rounds
 * @property {(run: { size: number, rounds: number, update: (done: number) => void }) =>
 *   Promise<[Figures, Figures] & { note?: string }>} run
 */

const COMMAND = 'node benchmark/scale.mjs'
const QUICK = 10
const ROWS = [...loop, ...sizes, ...loading]

const values = optionsOf(COMMAND, 'Prints what operations cost at the size of a server, each beside a peer.', {
  quick: { type: 'boolean', text: 'a tenth of the sizes and rounds' },
  json: { type: 'boolean', text: 'as JSON' },
  row: { type: 'string', value: 'WORD', text: 'only rows with this word in their name', parse: rowWith },
})
const chosen = ROWS.filter(({ name }) => values.row === undefined || name.includes(values.row))

function rowWith(_name, word) {
  if (ROWS.some(({ name }) => name.includes(word))) return word
  throw new args.UsageError(`no row has "${word}" in its name`, `the rows: ${ROWS.map(({ name }) => name).join('; ')}`)
}

if (!values.json) {
  console.log(`${machine()}\n${given(COMMAND)}\n`)
  console.log('| what | peer : subject | median | p99.9 | ratio of medians | to reach |\n|---|---|---|---|---|---|')
}
const results = []
for (const { name, sizes: size, sides, unit, reach, rounds, run } of chosen) {
  const least = Math.min(rounds, 3)
  const scaled = values.quick ? Math.max(least, Math.round(rounds / QUICK)) : rounds
  const bar = progress.makeProgress(process.stderr, scaled)
  const asked = size === undefined ? undefined : values.quick ? size / QUICK : size
  bar.update(0, name)
  const measured = await run({ size: asked, rounds: scaled, update: (done) => bar.update(done, name) })
  bar.clear()
  const [peer, subject] = measured
  results.push({ name, size: asked, sides, unit, reach, peer, subject, ratio: subject.median / peer.median })
  if (measured.note !== undefined) results.at(-1).note = measured.note
  if (!values.json) printRow(results.at(-1))
}

if (values.json) console.log(JSON.stringify({ machine: machine(), command: given(COMMAND), results }, null, 2))
else
  console.log(`
The rows of the suballocator and of compaction are Rust's:
  cargo bench --no-default-features --bench suballoc-extremes   requests beside 400,000 holes; tightness of placement
  cargo bench --no-default-features --bench pool                the pool's lock and counters, compaction
  cargo bench --no-default-features --bench scans               steps of a compaction among 500,000 slices
  benchmark/suballoc-instructions.sh                            instruction counts, which CI compares`)

/** Prints a row as soon as it is measured: a later one may fail. */
function printRow({ name, size, sides, unit, reach, peer, subject, ratio, note }) {
  const between = sides ?? (/twentieth/.test(name) ? `${grouped(size / 20)} : ${grouped(size)}` : tenth(size))
  const both = (figure) => `${shown(peer[figure])} : ${shown(subject[figure])} ${unit}`
  const cells = [name, between, both('median'), both('p999'), ratio.toFixed(2), reach]
  console.log(`| ${cells.join(' | ')} |`)
  if (note !== undefined) console.log(`| | | ${note} | | | |`)
}

function grouped(count) {
  return Math.round(count).toLocaleString('en-US')
}

function tenth(size) {
  return `${grouped(size / 10)} : ${grouped(size)}`
}

function shown(figure) {
  return figure >= 100 ? figure.toFixed(0) : figure >= 10 ? figure.toFixed(1) : figure.toFixed(2)
}
