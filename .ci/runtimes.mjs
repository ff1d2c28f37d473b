// The JavaScript suite on every runtime that is supported, with the addon of this checkout:
//   node .ci/runtimes.mjs [node22 node24 node26 bun deno] [-- suite...]
// What a runtime cannot do is skipped in the tests by name, with the reason.

import { execFileSync, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

import { pathOf, suites } from '../__test__/support/suites.mjs'
import { fetched, runtimes } from './fetch-runtimes.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const AT_ONCE = 2

const split = process.argv.indexOf('--')
const names = process.argv.slice(2, split < 0 ? undefined : split)
const only = split < 0 ? [] : process.argv.slice(split + 1)
for (const name of names)
  if (!(name in runtimes)) throw new Error(`no runtime "${name}": ${Object.keys(runtimes).join(' ')}`)
const files = (only.length > 0 ? only : [...suites.keys()]).map(pathOf)

const jobs = (names.length > 0 ? names : Object.keys(runtimes)).flatMap((name) => {
  const binary = fetched(name)
  const [version] = execFileSync(binary, ['--version'], { encoding: 'utf8' }).trim().split('\n')
  console.log(`${name}: ${version}`)
  return files.map((file) => ({ name, file, binary, args: runtimes[name].test(file) }))
})
const failed = []
await Promise.all(Array.from({ length: AT_ONCE }, work))
console.log(failed.length === 0 ? `all ${jobs.total} passed` : `FAILED: ${failed.join(', ')}`)
process.exit(failed.length === 0 ? 0 : 1)

async function work() {
  jobs.total ??= jobs.length
  for (let job; (job = jobs.shift()) !== undefined; ) {
    const began = performance.now()
    const { status, output } = await run(job)
    const title = `${job.name} ${job.file.replace(/.*\/(.*)\.test\.mjs/, '$1')}`
    console.log(
      `${title.padEnd(28)} ${status === 0 ? 'ok' : 'FAILED'} ` +
        `${((performance.now() - began) / 1000).toFixed(1)} s  ${counts(output)}`,
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
  const patience = setTimeout(() => child.kill('SIGKILL'), 180_000)
  return new Promise((resolve) => child.on('close', (status) => (clearTimeout(patience), resolve({ status, output }))))
}

/** How many passed and were skipped, in the words of whichever runtime. */
function counts(output) {
  const find = (...patterns) => patterns.map((pattern) => pattern.exec(output)?.[1]).find(Boolean) ?? '0'
  const passed = find(/^# pass (\d+)/m, /^ *(\d+) pass$/m, /\| (\d+) passed/)
  const skipped = find(/^# skipped (\d+)/m, /^ *(\d+) skip$/m, /(\d+) ignored/)
  return `${passed} passed, ${skipped} skipped`
}
