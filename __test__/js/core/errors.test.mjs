/** MemoryError: its classes, fields and messages. */

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { inspect } from 'node:util'

import { MemoryError } from '../../../index.js'
import { GiB, needsSimulated, open, refuses } from '../../support/helpers.mjs'

test('the codes that are also TypeErrors and RangeErrors are both', (t) => {
  const manager = open(t)
  const type = refuses(() => manager.allocateNPUMemory('1'), 'ERR_INVALID_ARG_TYPE')
  assert.ok(type instanceof TypeError && type instanceof MemoryError && type instanceof Error)
  const range = refuses(() => manager.allocateNPUMemory(-1), 'ERR_OUT_OF_RANGE')
  assert.ok(range instanceof RangeError && range instanceof MemoryError && range instanceof Error)
  const other = refuses(() => manager.deallocate(new ArrayBuffer(1)), 'ERR_UNKNOWN_BUFFER')
  assert.ok(!(other instanceof TypeError) && !(other instanceof RangeError) && other instanceof MemoryError)
})

test('instanceof MemoryError is true of nothing else', () => {
  for (const value of [
    new Error('x'), new TypeError('x'), Object.assign(new Error('x'), { code: 'ERR_OUT_OF_RANGE' }), {}, null,
    undefined, 1, Object.create(MemoryError.prototype),
  ]) {
    assert.equal(value instanceof MemoryError, false, inspect(value))
  }
  class Mine extends MemoryError {}
  const mine = new Mine('mine', { code: 'ERR_DEVICE_IO' })
  assert.ok(mine instanceof Mine && mine instanceof MemoryError)
  assert.equal(new MemoryError('x', { code: 'ERR_DEVICE_IO' }) instanceof Mine, false)
})

test('an error names its code, its figures and its stack', { skip: needsSimulated }, (t) => {
  const manager = open(t)
  const error = refuses(() => manager.allocateNPUMemory(5 * GiB), 'ERR_OUT_OF_RANGE')
  assert.equal(error.name, 'MemoryError')
  assert.equal(error.requested, 5 * GiB)
  assert.equal(error.limit, 4 * GiB)
  assert.match(error.message, /5 GiB/)
  assert.match(error.message, /4 GiB/)
  assert.match(error.stack, /errors\.test\.mjs/)
  assert.match(inspect(error), /ERR_OUT_OF_RANGE/)
  assert.deepEqual(JSON.parse(JSON.stringify(error)).code, 'ERR_OUT_OF_RANGE')
})

test('unknown fields are absent', (t) => {
  const manager = open(t)
  const error = refuses(() => manager.allocateNPUMemory('1'), 'ERR_INVALID_ARG_TYPE')
  assert.deepEqual(Object.entries(error).filter(([, value]) => value === undefined || value === null), [])
  assert.equal('errno' in error, false)
})

test('messages show the wrong value', (t) => {
  const manager = open(t)
  for (const [value, shown] of [
    ['4096', /"4096"/], [4096n, /4096n/], [NaN, /NaN/], [-5, /-5/], [1.5, /1\.5/], [null, /null/], [{}, /[Oo]bject/],
  ]) {
    assert.throws(
      () => manager.allocateNPUMemory(value),
      (error) => shown.test(error.message) || assert.fail(error.message),
    )
  }
})

const read = (path) => readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8')
const codesIn = (text) => new Set(text.match(/\bERR_[A-Z_]+\b/g))
/** The package's codes: those of the native part. */
const CODES = [...read('src/error.rs').matchAll(/^ {4}\w+ = "(ERR_\w+)",$/gm)].map(([, code]) => code)

test('the types list the codes of the native part, each with its meaning', () => {
  const [union] = /export type MemoryErrorCode =[^]*?\n\n/.exec(read('src/js/types/errors.d.ts'))
  const documented = [...union.matchAll(/\/\*\* [^*]+\. \*\/\n {2}\| '(ERR_\w+)'/g)].map(([, code]) => code)
  assert.deepEqual(documented, CODES)
})

test('JSDoc, JavaScript and the documentation name no other code', () => {
  const of = (folder, extension) =>
    readdirSync(new URL(`../../../${folder}`, import.meta.url), { recursive: true })
      .filter((name) => name.endsWith(extension))
      .map((name) => `${folder}/${name}`)
  const ofNode = ['ERR_ACCESS_DENIED', 'ERR_DLOPEN_DISABLED', 'ERR_DLOPEN_FAILED', 'ERR_MODULE_NOT_FOUND']
  const known = new Set([...CODES, ...ofNode])
  const files = [...of('src/js/types', '.d.ts'), ...of('src/js', '.js'), ...of('docs', '.md'), 'README.md']
  for (const path of files.filter((name) => !name.includes('native.') && !name.includes('docs/design/'))) {
    for (const code of codesIn(read(path))) assert.ok(known.has(code), `${path}: ${code}`)
  }
})

test("what Node's permission model forbids: the hint names its flag", () => {
  const { systemError } = createRequire(import.meta.url)('../../../src/js/core/system-errors.js')
  for (const [permission, flag] of [
    ['ChildProcess', /--allow-child-process$/], ['WorkerThreads', /--allow-worker$/],
    ['FileSystemRead', /--allow-fs-read=PATH/], ['FileSystemWrite', /--allow-fs-write=PATH/],
  ]) {
    const denied = Object.assign(new Error('Access to this API has been restricted'), { permission })
    const { code, hint } = systemError('measureModel failed', Object.assign(denied, { code: 'ERR_ACCESS_DENIED' }))
    assert.equal(code, 'ERR_DEVICE_PERMISSION')
    assert.match(hint, flag)
  }
})
