/** The output of console.log(manager). */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inspect } from 'node:util'

import { backend, MiB, open, simulated } from '../../support/helpers.mjs'

test('a manager prints its contents', (t) => {
  const manager = open(t)
  manager.allocateNPUMemory(3 * MiB)
  const text = inspect(manager)
  assert.match(text, /^MemoryManager/)
  assert.match(text, simulated ? /simulated rk3588/ : new RegExp(backend))
  assert.match(text, /3 MiB/)
  assert.ok(text.length < 500, 'it is short')
  assert.doesNotMatch(text, /_events|undefined|NaN|\x1b/)
})

test('nested, in colours, and disposed', (t) => {
  const manager = open(t)
  assert.match(inspect({ a: { b: { c: { manager } } } }, { depth: 10 }), /MemoryManager/)
  assert.ok(inspect([manager], { depth: 0 }).length < 200)
  assert.match(inspect(manager, { colors: true }), /\x1b\[/)
  manager.dispose()
  assert.match(inspect(manager), /disposed/)
})

test('the class itself, its prototype, and an object that only inherits from a manager can be printed', (t) => {
  const manager = open(t)
  for (const value of [manager.constructor, manager.constructor.prototype, Object.create(manager)]) {
    assert.equal(typeof inspect(value), 'string')
  }
})
