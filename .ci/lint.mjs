// Runs the static checks: `npm run lint [-- STEP...]`. Runs all steps, and fails if any has failed.

import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const tsc = ['node', 'node_modules/typescript/bin/tsc', '--project']
const clippy = ['cargo', 'clippy', '--quiet']
const doc = ['cargo', 'doc', '--quiet', '--no-deps']

const STEPS = {
  columns: [['node', '.ci/columns.mjs']],
  eslint: [['node', 'node_modules/eslint/bin/eslint.js', '.']],
  types: [[...tsc, '__test__/types'], ['node', '__test__/types/docs.mjs']],
  checkjs: [['node', '.ci/check-js.mjs']],
  fmt: [['cargo', 'fmt', '--check']],
  clippy: [
    [...clippy, '--all-targets', '--no-default-features', '--', '-D', 'warnings'],
    // A build for tests does not use the exports of the binding.
    [...clippy, '--lib', '--', '-D', 'warnings'],
  ],
  rustdoc: [[...doc, '--no-default-features'], doc],
}

const named = process.argv.slice(2)
const unknown = named.find((name) => !Object.hasOwn(STEPS, name))
if (unknown !== undefined) {
  console.error(`lint: no step "${unknown}"; the steps are ${Object.keys(STEPS).join(', ')}`)
  process.exit(2)
}

const failed = []
for (const name of named.length > 0 ? named : Object.keys(STEPS)) {
  for (const [command, ...args] of STEPS[name]) {
    console.log(`# ${command} ${args.join(' ')}`)
    const began = performance.now()
    const env = { ...process.env, RUSTDOCFLAGS: '-D warnings' }
    const { status, error } = spawnSync(command, args, { cwd: root, env, stdio: ['ignore', 'inherit', 'inherit'] })
    if (error !== undefined) console.error(error.message)
    if (status !== 0) failed.push(name)
    console.log(`# ${status === 0 ? 'ok' : 'FAILED'}, ${((performance.now() - began) / 1000).toFixed(0)} s`)
  }
}

if (failed.length > 0) {
  console.error(`failed: ${[...new Set(failed)].join(', ')}`)
  process.exit(1)
}
