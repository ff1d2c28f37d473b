#!/usr/bin/env node
/**
 * Tries on a board what no document promises: whether librknnrt takes memory of this package, for each flag. Each way
 * runs in a process of its own, since a library may crash; its outputs are compared with those of a context that has
 * all weights and scratch of the runtime.
 *
 *   npm run vision:selftest -- --model FILE.rknn [--rknn /usr/lib/librknnrt.so] [--header V]
 *   npm run vision:selftest -- --understudy
 * Exit status 0: each way was taken, with the same outputs; 1: some were not; 2: wrong options, or no way works.
 */

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { MemoryManager } from '../../index.js'
import { open } from '../inference/ffi.mjs'
import { FUNCTIONS } from './encoder.mjs'
import { makeUnderstudies } from './understudies.mjs'

const THREE = ['auto', 'auto', 'auto']
/** The ways, by name: the options of one model. The first is the one that the others are compared with. */
const WAYS = {
  'all memory of the runtime': { weights: 'runtime', scratch: 'runtime' },
  'scratch of the manager': { weights: 'runtime', scratch: 'manager' },
  'weights and scratch of the manager': { weights: 'manager' },
  'weights in the file, read into our dma-buf': { weights: 'file' },
  'three duplicates, weights of the manager': { weights: 'manager', contexts: THREE },
  'three contexts by init, weights of the manager': { weights: 'manager', contexts: THREE, contextsBy: 'init' },
  'three duplicates, weights in the file': { weights: 'file', contexts: THREE },
  'three contexts by init, weights in the file': { weights: 'file', contexts: THREE, contextsBy: 'init' },
}

const OPTIONS = {
  model: { type: 'string' },
  rknn: { type: 'string', default: '/usr/lib/librknnrt.so' },
  header: { type: 'string' },
  understudy: { type: 'boolean' },
  way: { type: 'string' },
}

/** Loads the model one way, and runs each context once. Prints the hash of the outputs of each, as JSON. */
async function tryWay({ model, rknn: library, header, way }) {
  const memory = new MemoryManager({ backend: process.env.RKLLM_BACKEND ?? 'auto' })
  const { call } = await open(library, FUNCTIONS)
  const models = [{ name: 'model', file: model, ...WAYS[way] }]
  const rknn = memory.createRknnMemory({ ...(header === undefined ? { library } : { header }), models })
  try {
    for (const each of rknn.load()) each.done(call[each.name](...each.args))
    const hashes = rknn.models.model.contexts.map(({ handle, inputs, outputs }) => {
      for (const { array } of Object.values(inputs)) fill(array)
      const status = call.rknn_run(handle, 0n)
      if (status !== 0) throw new Error(`rknn_run returned ${status}`)
      const hash = createHash('sha256')
      for (const { array } of Object.values(outputs)) hash.update(array)
      return hash.digest('hex')
    })
    console.log(JSON.stringify({ hashes, runtime: rknn.runtime, usage: rknn.usage }))
  } finally {
    for (const each of rknn.unload()) each.done(call[each.name](...each.args))
    rknn.dispose()
    memory.dispose()
  }
}

function fill({ buffer, byteOffset, byteLength }) {
  const bytes = new Uint8Array(buffer, byteOffset, byteLength)
  for (let at = 0; at < bytes.length; at++) bytes[at] = (at * 7) & 0x3f
}

/** Runs every way in a process of its own. Returns the exit status. */
function tryAll({ model, rknn, header }, env) {
  const self = fileURLToPath(import.meta.url)
  const prefix = process.versions.deno === undefined ? [] : ['run', '-A']
  const chosen = header === undefined ? [] : ['--header', header]
  let expected
  let refused = 0
  for (const way of Object.keys(WAYS)) {
    const args = [...prefix, self, '--model', model, '--rknn', rknn, '--way', way, ...chosen]
    const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', env })
    const verdict = verdictOf(status, signal, stdout, stderr, expected)
    if (expected === undefined && verdict.hashes === undefined) {
      console.error(`${way}: ${verdict.text}\nthe model does not run at all: nothing can be compared`)
      return 2
    }
    if (expected === undefined) {
      expected = verdict.hashes[0]
      console.log(`librknnrt ${verdict.runtime.api}, driver ${verdict.runtime.driver}\n`)
    }
    if (!verdict.isGood) refused++
    console.log(`${verdict.isGood ? 'yes' : 'NO '}  ${way}${verdict.text === '' ? '' : `: ${verdict.text}`}`)
  }
  console.log(`\n${Object.keys(WAYS).length - refused} of ${Object.keys(WAYS).length} ways work on this board`)
  return refused === 0 ? 0 : 1
}

function verdictOf(status, signal, stdout, stderr, expected) {
  if (signal !== null) return { isGood: false, text: `the process ended by ${signal}` }
  if (status !== 0) return { isGood: false, text: stderr.trim().split('\n').at(-1) }
  const { hashes, runtime } = JSON.parse(stdout.trim().split('\n').at(-1))
  const isGood = expected === undefined || hashes.every((hash) => hash === expected)
  return { isGood, hashes, runtime, text: isGood ? '' : 'its outputs differ' }
}

async function main() {
  const { values } = parseArgs({ options: OPTIONS })
  if (values.way !== undefined) return tryWay(values)
  if ((values.understudy ?? false) === (values.model !== undefined)) {
    throw Object.assign(new Error('give either --model FILE.rknn or --understudy'), { code: 'ERR_PARSE_ARGS' })
  }
  if (!values.understudy) process.exitCode = tryAll(values, process.env)
  else {
    const understudies = makeUnderstudies({ header: values.header, tokens: 16, hidden: 64, output: 'y', images: [] })
    const { encoder, rknn, remove } = understudies
    const env = { ...process.env, RKLLM_BACKEND: process.env.RKLLM_BACKEND ?? 'simulated' }
    try {
      process.exitCode = tryAll({ ...values, model: encoder, rknn }, env)
    } finally {
      remove()
    }
  }
}

try {
  await main()
} catch (error) {
  console.error(error.message + (error.hint ? `; ${error.hint}` : ''))
  process.exitCode = String(error.code).startsWith('ERR_PARSE_ARGS') ? 2 : 1
}
