/**
 * Lists the JavaScript suites, found by folder, and their needs. `npm run test:js`, `test:runtimes` and `test:kernel`
 * read this list.
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

/** Suites without driver calls: one run on any device is enough. */
export const driverless = [
  'adapters',
  'alive',
  'arena',
  'attacks',
  'border',
  'caches',
  'channels',
  'cli',
  'deallocate-when',
  'demo',
  'docs',
  'docs-links',
  'doctor-reasons',
  'drivers',
  'estimate',
  'event-log',
  'examples',
  'explain',
  'figures',
  'format-bytes',
  'gguf',
  'globals',
  'help-examples',
  'ids',
  'inspect-socket',
  'layers',
  'layouts',
  'loader',
  'measure',
  'metrics',
  'monitoring',
  'on-demand',
  'plan',
  'process-limits',
  'progress',
  'published',
  'refusals',
  'replay',
  'reports',
  'residency',
  'residency-core',
  'residency-progress',
  'residency-proof',
  'residency-random',
  'residency-runtime',
  'results',
  'rknn',
  'rknn-layouts',
  'rknn-refusals',
  'runtime-version',
  'scale',
  'scans',
  'server',
  'server-models',
  'snapshot-diff',
  'soak',
  'top',
  'understudy',
  'understudy-callbacks',
  'vision',
  'workers',
]

/** Suites that compile C: no emulated machine has a compiler. */
export const needingCompiler = [
  'layouts', 'residency-runtime', 'results', 'rknn', 'rknn-layouts', 'rknn-refusals', 'server', 'server-models',
  'understudy', 'understudy-callbacks', 'vision',
]

/**
 * Suites with engine-dependent outcomes: the collector, ArrayBuffers, threads, events, modules. `.ci/fuzz.mjs` runs the
 * programs of `fuzz` on every runtime.
 */
export const engineDependent = [
  'async',
  'async-twins',
  'attacks',
  'border',
  'channels',
  'collected',
  'compaction',
  'deallocate-when',
  'demo',
  'dispose',
  'errors',
  'exits',
  'globals',
  'inbox',
  'inspect',
  'lifetime',
  'loader',
  'measure',
  'on-demand',
  'package',
  'pins',
  'pool-threads',
  'pools-lifetime',
  'pressure',
  'profiling',
  'residency',
  'residency-proof',
  'results',
  'reuse',
  'server',
  'server-models',
  'sharing',
  'understudy-callbacks',
  'workers',
]

/** Returns the path of a suite. Throws if it does not exist. */
export function pathOf(name) {
  const path = suites.get(name)
  if (path === undefined) throw new Error(`no suite "${name}"; the suites are ${[...suites.keys()].join(' ')}`)
  return path
}
