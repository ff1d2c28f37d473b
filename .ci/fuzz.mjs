// Runs random programs that move, hold and free memory in every way, on every supported runtime:
//   node .ci/fuzz.mjs [seeds] [seconds a seed] [first seed]
// A failing seed may not fail again: threads and collectors differ from run to run.

import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

import { fetched, runtimes } from './fetch-runtimes.mjs'

const [seeds = 20, seconds = 12, first = 1] = process.argv.slice(2).map(Number)
const root = fileURLToPath(new URL('..', import.meta.url))
const program = '__test__/support/child/attack-fuzz.mjs'
const AT_ONCE = 2

const all = {
  [`node${process.versions.node.split('.')[0]}`]: { binary: process.execPath, run: (file) => ['--expose-gc', file] },
  ...Object.fromEntries(
    Object.keys(runtimes).map((name) => [name, { binary: fetched(name), run: runtimes[name].run }]),
  ),
}
const jobs = Object.entries(all).flatMap(([name, { binary, run }]) =>
  Array.from({ length: seeds }, (_, i) => ({
    name,
    binary,
    seed: first + i,
    args: [...run(program), String(first + i), String(seconds)],
  })),
)
const survived = Object.fromEntries(Object.keys(all).map((name) => [name, { runs: 0, steps: 0 }]))
let failed = 0
await Promise.all(Array.from({ length: AT_ONCE }, work))
for (const [name, { runs, steps }] of Object.entries(survived))
  console.log(`${name.padEnd(7)} ${runs} of ${seeds} seeds survived, ${steps} steps`)
process.exit(failed === 0 ? 0 : 1)

async function work() {
  for (let job; (job = jobs.shift()) !== undefined; ) {
    const { status, signal, output } = await start(job)
    const result = /^\{"steps".*$/m.exec(output)?.[0]
    const { steps, left } = result ? JSON.parse(result) : { steps: 0, left: ['no result'] }
    survived[job.name].steps += steps
    if (status === 0 && left.length === 0) {
      survived[job.name].runs++
      continue
    }
    failed++
    console.log(
      `FAILED ${job.name}, seed ${job.seed}: ${signal ?? `exit ${status}`}, left ${left.join(', ')}\n` +
        output.slice(-3000).replace(/^/gm, '  | '),
    )
  }
}

function start({ binary, args }) {
  const child = spawn(binary, args, {
    cwd: root,
    env: { ...process.env, NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
  const timer = setTimeout(() => child.kill('SIGKILL'), seconds * 1000 + 60_000)
  return new Promise((resolve) =>
    child.on('close', (status, signal) => (clearTimeout(timer), resolve({ status, signal, output }))),
  )
}
