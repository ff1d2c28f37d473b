/**
 * Builds the understudy, one librkllmrt.so a version of rkllm.h:
 *   node __test__/runtime/build.mjs [--arch arm64] [--cc aarch64-linux-gnu-gcc]
 */

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const FOLDER = fileURLToPath(new URL('.', import.meta.url))
const TARGET = fileURLToPath(new URL('../../target/understudy/', import.meta.url))
const SOURCES = ['understudy.c', 'engine.c', 'memory.c']
const FLAGS = ['-shared', '-fPIC', '-O2', '-std=gnu11', '-pthread', '-fvisibility=hidden', '-Wl,-z,nodelete']
const WARNINGS = ['-Wall', '-Wextra', '-Wno-missing-field-initializers', '-Werror']

/** The number of each header, by the names of `createInferenceBuffers`, and the version that the library carries. */
const GENERATIONS = {
  1.1: { number: 110, version: '1.1.4' },
  '1.2.0': { number: 120, version: '1.2.0' },
  1.2: { number: 121, version: '1.2.3' },
  1.3: { number: 130, version: '1.3.0' },
}

export const HEADERS = Object.keys(GENERATIONS).sort()

/**
 * Builds the library of `header` where sources or flags have changed. Returns its path.
 *
 * @param {string} header
 * @param {{ cc?: string, arch?: string }} [options] a cross compiler, and its processor
 */
export function buildUnderstudy(header, { cc = 'cc', arch = process.arch } = {}) {
  const { number, version } = GENERATIONS[header]
  const args = [...FLAGS, ...WARNINGS, `-DRKLLM_HEADER=${number}`, `-DRKLLM_VERSION="${version}"`]
  const key = createHash('sha256').update(JSON.stringify([cc, args]))
  for (const name of readdirSync(FOLDER).sort()) if (/\.[ch]$/.test(name)) key.update(readFileSync(join(FOLDER, name)))
  const folder = join(TARGET, `${arch}-${version}-${key.digest('hex').slice(0, 16)}`)
  const library = join(folder, 'librkllmrt.so')
  if (existsSync(library)) return library
  mkdirSync(folder, { recursive: true })
  // Renamed into its place: suites that build at once never load half a library.
  const draft = join(folder, `draft-${process.pid}.so`)
  const sources = SOURCES.map((name) => join(FOLDER, name))
  const { status, error, stderr } = spawnSync(cc, [...args, '-o', draft, ...sources], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${cc} failed: ${error ?? stderr}`)
  renameSync(draft, library)
  return library
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { arch: { type: 'string' }, cc: { type: 'string' } } })
  for (const header of HEADERS) console.log(buildUnderstudy(header, values))
}
