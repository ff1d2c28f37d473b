/** The structs of rknn_api.h lie where the C compiler puts them, and have the sizes of rknn-api.md §1. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { RKNN_HEADERS, numberOfRknn } from '../../runtime/build.mjs'
import { needsCommand } from '../../support/helpers.mjs'

const require = createRequire(import.meta.url)
const { headers, readAttributes } = require('../../../src/js/rknn/layouts.js')

const SOURCE = fileURLToPath(new URL('layouts.c', import.meta.url))

const run = (command, args) => {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  assert.equal(status, 0, error?.message ?? stderr)
  return stdout
}

test('structs have the sizes of the headers', () => {
  assert.deepEqual(Object.keys(headers).sort(), RKNN_HEADERS)
  for (const [header, structs] of Object.entries(headers)) {
    const sizes = Object.fromEntries(Object.entries(structs).map(([name, { size }]) => [name, size]))
    assert.deepEqual(sizes, {
      rknn_input_output_num: 8, rknn_tensor_attr: 376, rknn_tensor_mem: 40, rknn_sdk_version: 512,
      rknn_run_extend: 24, rknn_mem_size: header === '1.3' ? 8 : 64, rknn_init_extend: 136,
    }, header)
  }
})

test('every field lies where the C compiler puts it, in every version', { skip: needsCommand('cc') }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'rknn-layouts-'))
  try {
    for (const header of RKNN_HEADERS) {
      const program = join(folder, `layouts-${header}`)
      run('cc', ['-std=c11', `-DRKNN_HEADER=${numberOfRknn(header)}`, '-o', program, SOURCE])
      const theirs = run(program, []).trim().split('\n').sort()
      const ours = Object.entries(headers[header])
        .flatMap(([name, { size, align, fields }]) => [
          `${name} size ${size}`,
          `${name} align ${align}`,
          ...Object.entries(fields).map(([field, { offset }]) => `${name} ${field} ${offset}`),
        ])
        .sort()
      assert.deepEqual(ours, theirs, header)
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('attributes that a runtime garbles are read within their struct', () => {
  const view = new DataView(new ArrayBuffer(376).slice(0))
  new Uint8Array(view.buffer).fill(0xff)
  const { dims, name, zeroPoint, fractionalLength, elements } = readAttributes(view, 0)
  assert.deepEqual({ rank: dims.length, name: name.length, zeroPoint, fractionalLength, elements }, {
    rank: 16, name: 256, zeroPoint: -1, fractionalLength: -1, elements: 2 ** 32 - 1,
  })
})
