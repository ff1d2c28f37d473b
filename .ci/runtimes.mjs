// Runs the JavaScript suites on every supported runtime, with the addon of this checkout:
//   node .ci/runtimes.mjs [--all] [node22 node24 node26 bun deno] [-- suite...]
// The default is the suites with engine-dependent outcomes. The tests skip the features that a runtime lacks.

import { execFileSync, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

import { engineDependent, pathOf, suites } from '../__test__/support/suites.mjs'
import { fetched, runtimes } from './fetch-runtimes.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const AT_ONCE = 2

/** The Node versions with other V8s run only the suites about ArrayBuffers, the collector and threads. */
const BUFFERS = ['attacks', 'collected', 'exits', 'lifetime', 'results']
/** Slow suites whose outcomes do not depend on V8: the newest Node runs the others. */
const SLOW = ['async-twins', 'demo', 'measure', 'pressure', 'residency-proof', 'server', 'server-models']
const FEWER = { node22: BUFFERS, node24: BUFFERS, node26: engineDependent.filter((name) => !SLOW.includes(name)) }

const words = process.argv.slice(2)
const split = words.includes('--') ? words.indexOf('--') : words.length
const only = words.slice(split + 1)
const all = words.slice(0, split).includes('--all')
const names = words.slice(0, split).filter((word) => word !== '--all')
for (const name of names)
  if (!(name in runtimes)) throw new Error(`no runtime "${name}"; the runtimes are ${Object.keys(runtimes).join(', ')}`)

function chosen(name) {
  if (only.length > 0) return only
  if (all) return [...suites.keys()]
  return FEWER[name] ?? engineDependent
}

const jobs = (names.length > 0 ? names : Object.keys(runtimes)).flatMap((name) => {
  const binary = fetched(name)
  const [version] = execFileSync(binary, ['--version'], { encoding: 'utf8' }).trim().split('\n')
  console.log(`${name}: ${version}`)
  return chosen(name).map((suite) => ({ name, suite, binary, args: runtimes[name].test(pathOf(suite)) }))
})
const failed = []
await Promise.all(Array.from({ length: AT_ONCE }, work))
console.log(failed.length === 0 ? `all ${jobs.total} passed` : `FAILED: ${failed.join(', ')}`)
process.exit(failed.length === 0 ? 0 : 1)

async function work() {
  jobs.total ??= jobs.length
  for (let job; (job = jobs.shift()) !== undefined;) {
    const began = performance.now()
    const { status, output } = await run(job)
    const seconds = ((performance.now() - began) / 1000).toFixed(1)
    const title = `${job.name} ${job.suite}`
    console.log(
      `${title.padEnd(28)} ${status === 0 ? 'ok' : 'FAILED'} ${seconds} s  ${counts(output)}`,
    )
    if (status === 0) continue
    failed.push(title)
    console.log(output.replace(/^/gm, '  | '))
  }
}

function run({ binary, args }) {
  const child = spawn(binary, args, {
    cwd: root,
    env: { ...process.env, NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
  const timer = setTimeout(() => child.kill('SIGKILL'), 420_000)
  return new Promise((resolve) => child.on('close', (status) => (clearTimeout(timer), resolve({ status, output }))))
}

/** Reads the numbers of passed and skipped tests from the runtime's own summary. */
function counts(output) {
  const find = (...patterns) => patterns.map((pattern) => pattern.exec(output)?.[1]).find(Boolean) ?? '0'
  const passed = find(/^# pass (\d+)/m, /^ *(\d+) pass$/m, /\| (\d+) passed/)
  const skipped = find(/^# skipped (\d+)/m, /^ *(\d+) skip$/m, /(\d+) ignored/)
  return `${passed} passed, ${skipped} skipped`
}
