// The long proofs of residency, which take an hour and more: a million random steps of its core, 1,000 kills of workers
// and 102 of parents, 1,000 cycles of the proof that memory is back.
//
//   npm run test:residency [-- --scale N]      one of N of each; default 1

import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { pathOf } from '../__test__/support/suites.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const { values } = parseArgs({ options: { scale: { type: 'string', default: '1' } } })
const scale = Number(values.scale)
if (!(scale >= 1)) {
  console.error(`--scale is ${values.scale}; it must be at least 1`)
  process.exit(2)
}

const PROOFS = [
  ['residency-random', 'RKLLM_TEST_STEPS', 1_000_000],
  ['workers', 'RKLLM_TEST_KILLS', 1000],
  ['residency-proof', 'RKLLM_TEST_CYCLES', 1000],
]

const failed = []
for (const [suite, variable, most] of PROOFS) {
  const count = String(Math.ceil(most / scale))
  console.log(`# ${variable}=${count} ${suite}`)
  const began = performance.now()
  const { status } = spawnSync(process.execPath, ['--test', '--test-reporter=spec', pathOf(suite)], {
    cwd: root,
    env: { ...process.env, [variable]: count },
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  console.log(`# ${status === 0 ? 'ok' : 'FAILED'}, ${Math.round((performance.now() - began) / 1000)} s`)
  if (status !== 0) failed.push(suite)
}
if (failed.length > 0) console.log(`failed: ${failed.join(' ')}`)
process.exit(failed.length > 0 ? 1 : 0)
