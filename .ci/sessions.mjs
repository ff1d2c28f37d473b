// Sessions under load on every supported runtime, over the understudy of librkllmrt:
//   node .ci/sessions.mjs [--callbacks N] [--runs N] [node20 node22 node24 node26 bun deno]
// Callbacks: workers whose results are read and checked, and that are terminated at random while foreign threads call
// back; no token is lost or doubled. Runs: hidden states again and again on one session, whose memory stays flat.

import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { buildResultThread, buildUnderstudy } from '../__test__/runtime/build.mjs'
import { fetched, node20, runtimes as others } from './fetch-runtimes.mjs'

/** What a run may grow by, whose output alone has 64 KiB: pages of the engine's heap. */
const MAX_GROWTH = 24 * 2 ** 20

const runtimes = { node20, ...others }
const { values, positionals } = parseArgs({
  options: { callbacks: { type: 'string', default: '1000000' }, runs: { type: 'string', default: '10000' } },
  allowPositionals: true,
})
const names = positionals.length > 0 ? positionals : Object.keys(runtimes)
for (const name of names)
  if (!(name in runtimes)) throw new Error(`no runtime "${name}"; the runtimes are ${Object.keys(runtimes).join(', ')}`)
for (const [option, value] of Object.entries(values))
  if (!/^[1-9]\d*$/.test(value)) throw new Error(`--${option} must be a whole number, not ${JSON.stringify(value)}`)

const child = (name) => fileURLToPath(new URL(`../__test__/support/child/${name}.mjs`, import.meta.url))
const programs = [
  {
    title: `${values.callbacks} callbacks`,
    file: child('stress-results'),
    args: [values.callbacks, '1', buildResultThread()],
    isRight: ({ tokens, terminated }) => tokens >= Number(values.callbacks) && terminated > 0,
  },
  {
    title: `${values.runs} runs for hidden states`,
    file: child('flat-embeddings'),
    args: [values.runs, buildUnderstudy('1.3')],
    env: { UNDERSTUDY_KEEP_OUTPUT: '1' },
    isRight: ({ wrong, kept, grown, left }) => wrong === 0 && kept === 0 && left === 0 && grown < MAX_GROWTH,
  },
]

let failed = 0
for (const name of names) {
  for (const { title, file, args, env, isRight } of programs) {
    const began = performance.now()
    const binary = fetched(name, runtimes[name])
    const { status, stdout, stderr } = await run(binary, [...runtimes[name].run(file), ...args], env)
    const last = stdout.trim().split('\n').at(-1)
    const right = status === 0 && isRight(JSON.parse(last))
    const seconds = ((performance.now() - began) / 1000).toFixed(1)
    console.log(`${name.padEnd(7)} ${title.padEnd(30)} ${right ? 'ok' : `FAILED (${status})`} ${seconds} s  ${last}`)
    if (right) continue
    failed++
    console.log(stderr.split('\n').filter((line) => !/understudy for tests/.test(line)).slice(-30).join('\n'))
  }
}
process.exit(failed === 0 ? 0 : 1)

function run(binary, args, env) {
  const child = spawn(binary, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk) => (stdout += chunk))
  child.stderr.on('data', (chunk) => (stderr += chunk))
  return new Promise((resolve) =>
    child.on('close', (status, signal) => resolve({ status: status ?? signal, stdout, stderr })),
  )
}
