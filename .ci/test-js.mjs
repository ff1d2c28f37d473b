// Runs the JavaScript suites, or the named ones, on the simulated device:
//   npm run test:js [-- suite...]

import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'

import { pathOf, suites } from '../__test__/support/suites.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const named = process.argv.slice(2)
const files = named.length > 0 ? named.map(pathOf) : [...suites.values()]

const args = ['--test', '--test-reporter=spec', `--test-concurrency=${availableParallelism()}`, ...files]
const { status, error } = spawnSync(process.execPath, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
if (error !== undefined) console.error(error.message)
process.exit(status ?? 1)
