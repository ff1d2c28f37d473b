/**
 * Lists the JavaScript suites, found by folder, and what each needs. The scripts that run them all read this list: `npm
 * run test:js`,
 * `test:runtimes`, `test:kernel`.
 */

import { readdirSync } from 'node:fs'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('../js', import.meta.url))

/** Paths from the repository's root, by the suite's name. */
export const suites = new Map(
  readdirSync(folder, { recursive: true })
    .filter((path) => path.endsWith('.test.mjs'))
    .sort()
    .map((path) => [basename(path, '.test.mjs'), `__test__/js/${path}`]),
)

/** Suites that ask nothing of a driver: one run of them is enough, on any device. */
export const driverless = [
  'adapters',
  'attacks',
  'channels',
  'cli',
  'demo',
  'estimate',
  'event-log',
  'explain',
  'format-bytes',
  'inspect-socket',
  'layers',
  'metrics',
  'plan',
  'process-limits',
  'replay',
  'reports',
  'snapshot-diff',
  'top',
]

/**
 * Suites whose outcome depends on the engine: its collector, its ArrayBuffers, its threads, its events, its modules.
 */
export const engineDependent = [
  'async',
  'attacks',
  'channels',
  'collected',
  'compaction',
  'demo',
  'dispose',
  'errors',
  'exits',
  'fuzz',
  'inbox',
  'inspect',
  'lifetime',
  'package',
  'pool-threads',
  'pools-lifetime',
  'pressure',
  'profiling',
  'sharing',
]

/** The path of a suite; throws when a list names one that does not exist. */
export function pathOf(name) {
  const path = suites.get(name)
  if (path === undefined) throw new Error(`no suite "${name}"; there are ${[...suites.keys()].join(' ')}`)
  return path
}
