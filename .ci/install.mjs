// Packs the packages, and installs them with each package manager, for each runtime: `npm run test:install`.
//   node .ci/install.mjs [--packed] [SUITE...]    --packed: tests the tarballs that are in dist/

import { execFileSync, spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = fileURLToPath(new URL('..', import.meta.url))
const { values, positionals } = parseArgs({ options: { packed: { type: 'boolean' } }, allowPositionals: true })
const run = (command, ...args) => execFileSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
const state = () => execFileSync('git', ['status', '--porcelain'], { cwd: root, encoding: 'utf8' })

if (!values.packed) {
  const before = state()
  run(process.execPath, '.ci/package.mjs')
  const after = state()
  if (after !== before) throw new Error(`packing changed the working tree:\n${after}`)
}

const folder = '__test__/install'
run('npm', 'install', '--prefix', folder, '--no-package-lock', '--ignore-scripts', '--loglevel=error')
const suites = readdirSync(`${root}/${folder}`).filter((name) => name.endsWith('.test.mjs'))
const chosen = positionals.length > 0 ? positionals.map((name) => `${name}.test.mjs`) : suites
const unknown = chosen.find((name) => !suites.includes(name))
if (unknown !== undefined) throw new Error(`there is no suite ${unknown}; the suites are ${suites.join(', ')}`)
const args = ['--test', '--test-reporter=spec', '--test-concurrency=2', ...chosen.map((name) => `${folder}/${name}`)]
process.exit(spawnSync(process.execPath, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] }).status ?? 1)
