/**
 * Builds the understudies: one librkllmrt.so a version of rkllm.h, and one librknnrt.so a version of rknn_api.h; and
 * what the tests of sessions load besides:
 *   node __test__/runtime/build.mjs [--arch arm64] [--cc aarch64-linux-gnu-gcc]
 */

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const FOLDER = fileURLToPath(new URL('.', import.meta.url))
const TARGET = fileURLToPath(new URL('../../target/understudy/', import.meta.url))
const SOURCES = ['understudy.c', 'engine.c', 'memory.c']
const RKNN_SOURCES = ['rknn-understudy.c', 'rknn-model.c', 'rknn-memory.c']
const WARNINGS = ['-Wall', '-Wextra', '-Wno-missing-field-initializers', '-Werror']
/** koffi and Deno unload a library at the end of the thread that loaded it, under the library's own threads. */
const SHARED = ['-shared', '-fPIC', '-O2', '-std=gnu11', '-pthread', '-Wl,-z,nodelete', ...WARNINGS]
const HIDDEN = [...SHARED, '-fvisibility=hidden']

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

/** What the tests of sessions load besides: threads that call callbacks, and the offsets of structs. */
const RESULT_THREAD = fileURLToPath(new URL('../support/result-thread.c', import.meta.url))
const LAYOUTS = fileURLToPath(new URL('../js/inference/layouts.c', import.meta.url))

/** @typedef {{ cc?: string, arch?: string }} Options a cross compiler, and its processor */

/** The librkllmrt.so of `header`. */
const understudy = (header) => {
  const { number, version } = GENERATIONS[header]
  const definitions = [`-DRKLLM_HEADER=${number}`, `-DRKLLM_VERSION="${version}"`]
  return { name: 'librkllmrt.so', label: version, sources: inFolder(SOURCES), args: [...HIDDEN, ...definitions] }
}

/** The librknnrt.so of `header`. */
const rknnUnderstudy = (header) => {
  const { number, version } = RKNN_GENERATIONS[header]
  const definitions = [`-DRKNN_HEADER=${number}`, `-DRKNN_VERSION="${version}"`]
  return { name: 'librknnrt.so', label: version, sources: inFolder(RKNN_SOURCES), args: [...HIDDEN, ...definitions] }
}

const resultThread = { name: 'result-thread.so', label: 'thread', sources: [RESULT_THREAD], args: SHARED }
const layouts = (header) => {
  const args = ['-std=c11', `-DRKLLM_HEADER=${GENERATIONS[header].number}`]
  return { name: 'layouts', label: `layouts-${header}`, sources: [LAYOUTS], args }
}

const inFolder = (files) => files.map((file) => join(FOLDER, file))

/**
 * Builds the librkllmrt.so of `header` where sources or flags have changed. Returns its path.
 *
 * @param {string} header
 * @param {Options} [options]
 */
export const buildUnderstudy = (header, options) => build(understudy(header), options)

/** Builds the librknnrt.so of `header`, as `buildUnderstudy`. */
export const buildRknnUnderstudy = (header, options) => build(rknnUnderstudy(header), options)

/** Builds the library of `__test__/support/result-thread.mjs`, as `buildUnderstudy`. */
export const buildResultThread = (options) => build(resultThread, options)

/** Builds the program that prints the structs of `header`, as `buildUnderstudy`. */
export const buildLayouts = (header, options) => build(layouts(header), options)

/**
 * Builds all of them. A machine that has no compiler finds them.
 *
 * @param {Options} [options]
 */
export function buildAll(options) {
  const all = [
    ...HEADERS.flatMap((header) => [understudy(header), layouts(header)]),
    ...RKNN_HEADERS.map(rknnUnderstudy),
    resultThread,
  ]
  return all.map((what) => build(what, options))
}

/** For node:test's `skip`: the reason why the libraries of RKLLM are neither here nor can be built, or false. */
export function needsUnderstudy() {
  const built = [...HEADERS.map(understudy), resultThread].every((what) => existsSync(pathOf(what, process.arch)))
  const hasCompiler = (process.env.PATH ?? '').split(':').some((directory) => existsSync(`${directory}/cc`))
  return built || hasCompiler ? false : 'needs the command "cc", or libraries that were built before'
}

/** The compiler's name is not part of the path: a machine without one finds what another has built. */
function pathOf({ name, label, sources, args }, arch) {
  const key = createHash('sha256').update(JSON.stringify(args))
  const folder = dirname(sources[0])
  for (const file of readdirSync(folder).sort()) if (/\.[ch]$/.test(file)) key.update(readFileSync(join(folder, file)))
  return join(TARGET, `${arch}-${label}-${key.digest('hex').slice(0, 16)}`, name)
}

function build(what, { cc = 'cc', arch = process.arch } = {}) {
  const made = pathOf(what, arch)
  if (existsSync(made)) return made
  mkdirSync(dirname(made), { recursive: true })
  // Renamed into its place: suites that build at once never load half a library.
  const draft = join(dirname(made), `draft-${process.pid}`)
  const { status, error, stderr } = spawnSync(cc, [...what.args, '-o', draft, ...what.sources], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${cc} failed: ${error ?? stderr}`)
  renameSync(draft, made)
  return made
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { arch: { type: 'string' }, cc: { type: 'string' } } })
  for (const path of buildAll(values)) console.log(path)
}
