/** The structs of rkllm.h lie where the C compiler puts them, and have the sizes of runtime-api.md §1. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { test } from 'node:test'

import { HEADERS, buildLayouts, needsUnderstudy } from '../../runtime/build.mjs'

const require = createRequire(import.meta.url)
const { headers } = require('../../../src/js/inference/layouts.js')

/** The structs that examples/inference/check.c compares. */
const COMPARED_THERE = ['RKLLMInput', 'RKLLMCrossAttnParam']

const run = (command, args) => {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  assert.equal(status, 0, error?.message ?? stderr)
  return stdout
}

const SIZES = {
  1.1: { RKLLMParam: 200, RKLLMInferParam: 24, RKLLMResult: 32 },
  '1.2.0': { RKLLMParam: 208, RKLLMInferParam: 32, RKLLMResult: 48 },
  1.2: { RKLLMParam: 208, RKLLMInferParam: 32, RKLLMResult: 72, RKLLMCrossAttnParam: 40 },
  1.3: { RKLLMParam: 184, RKLLMInferParam: 40, RKLLMResult: 72, RKLLMSamplingParam: 36, RKLLMCallback: 48 },
}

test('structs have the sizes of the headers', () => {
  for (const [header, sizes] of Object.entries(SIZES)) {
    for (const [name, size] of Object.entries(sizes)) {
      assert.equal(headers[header][name].size, size, `${header} ${name}`)
    }
    assert.deepEqual(
      ['RKLLMLoraAdapter', 'RKLLMLoraParam', 'RKLLMPromptCacheParam'].map((name) => headers[header][name].size),
      [24, 8, 16],
    )
    assert.equal('RKLLMCallback' in headers[header], header === '1.3')
    assert.equal('RKLLMSamplingParam' in headers[header], header === '1.3')
  }
})

test('every field lies where the C compiler puts it, in every version', { skip: needsUnderstudy() }, () => {
  for (const header of HEADERS) {
    const theirs = run(buildLayouts(header), []).trim().split('\n').sort()
    const ours = Object.entries(headers[header])
      .filter(([name]) => !COMPARED_THERE.includes(name))
      .flatMap(([name, { size, align, fields }]) => [
        `${name} size ${size}`,
        `${name} align ${align}`,
        ...Object.entries(fields).map(([field, { offset }]) => `${name} ${field} ${offset}`),
      ])
      .sort()
    assert.deepEqual(ours, theirs, header)
  }
})
