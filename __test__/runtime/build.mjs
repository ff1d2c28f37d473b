/**
 * Builds the understudies: one librkllmrt.so a version of rkllm.h, and one librknnrt.so a version of rknn_api.h:
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
const RKNN_SOURCES = ['rknn-understudy.c', 'rknn-model.c', 'rknn-memory.c']
const FLAGS = ['-shared', '-fPIC', '-O2', '-std=gnu11', '-pthread', '-fvisibility=hidden', '-Wl,-z,nodelete']
const WARNINGS = ['-Wall', '-Wextra', '-Wno-missing-field-initializers', '-Werror']

/** The number of each header, by the names of `createInferenceBuffers`, and the version that the library carries. */
const GENERATIONS = {
  1.1: { number: 110, version: '1.1.4' },
  '1.2.0': { number: 120, version: '1.2.0' },
  1.2: { number: 121, version: '1.2.3' },
  1.3: { number: 130, version: '1.3.0' },
}

/** The same of rknn_api.h, by the names of `createRknnMemory`. */
const RKNN_GENERATIONS = {
  1.3: { number: 130, version: '1.3.0' },
  1.4: { number: 140, version: '1.4.0' },
  '1.5.2': { number: 152, version: '1.5.2' },
  1.6: { number: 160, version: '1.6.0' },
  '2.0': { number: 200, version: '2.0.0' },
  2.1: { number: 210, version: '2.3.2' },
}

export const HEADERS = Object.keys(GENERATIONS).sort()
export const RKNN_HEADERS = Object.keys(RKNN_GENERATIONS).sort()

/** @param {string} header */
export const numberOfRknn = (header) => RKNN_GENERATIONS[header].number

/**
 * Builds the librkllmrt.so of `header` where sources or flags have changed. Returns its path.
 *
 * @param {string} header
 * @param {{ cc?: string, arch?: string }} [options] a cross compiler, and its processor
 */
export function buildUnderstudy(header, options) {
  const { number, version } = GENERATIONS[header]
  const definitions = [`-DRKLLM_HEADER=${number}`, `-DRKLLM_VERSION="${version}"`]
  return build('librkllmrt.so', version, SOURCES, definitions, options)
}

/** Builds the librknnrt.so of `header`, as `buildUnderstudy`. */
export function buildRknnUnderstudy(header, options) {
  const { number, version } = RKNN_GENERATIONS[header]
  const definitions = [`-DRKNN_HEADER=${number}`, `-DRKNN_VERSION="${version}"`]
  return build('librknnrt.so', version, RKNN_SOURCES, definitions, options)
}

function build(name, version, files, definitions, { cc = 'cc', arch = process.arch } = {}) {
  const args = [...FLAGS, ...WARNINGS, ...definitions]
  const key = createHash('sha256').update(JSON.stringify([cc, args]))
  for (const file of readdirSync(FOLDER).sort()) if (/\.[ch]$/.test(file)) key.update(readFileSync(join(FOLDER, file)))
  const folder = join(TARGET, `${arch}-${version}-${key.digest('hex').slice(0, 16)}`)
  const library = join(folder, name)
  if (existsSync(library)) return library
  mkdirSync(folder, { recursive: true })
  // Renamed into its place: suites that build at once never load half a library.
  const draft = join(folder, `draft-${process.pid}.so`)
  const sources = files.map((file) => join(FOLDER, file))
  const { status, error, stderr } = spawnSync(cc, [...args, '-o', draft, ...sources], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${cc} failed: ${error ?? stderr}`)
  renameSync(draft, library)
  return library
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { arch: { type: 'string' }, cc: { type: 'string' } } })
  for (const header of HEADERS) console.log(buildUnderstudy(header, values))
  for (const header of RKNN_HEADERS) console.log(buildRknnUnderstudy(header, values))
}
