// All tests that need no emulator: the core without napi, the conformance suite on what this machine has, the types,
// and the JavaScript suite on the simulated device. `npm test` prepares the checkout first.

import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const suites = readdirSync(`${root}/__test__`).filter((name) => name.endsWith('.test.mjs'))
const steps = [
  ['cargo', 'test', '--no-default-features', '--quiet'],
  ['node', 'node_modules/typescript/bin/tsc', '--project', '__test__/types'],
  ['node', '--test', '--test-reporter=spec', ...suites.map((name) => `__test__/${name}`)],
]

for (const [command, ...args] of steps) {
  console.log(`\n# ${command} ${args.join(' ')}`)
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
  if (error !== undefined) console.error(error.message)
  if (status !== 0) process.exit(status ?? 1)
}
