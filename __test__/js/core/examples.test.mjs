/** The `@example` blocks of the types: each runs, and each line with `// => value` has that value. */

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'

import memory from '../../../index.js'

const folder = new URL('../../../src/js/types/', import.meta.url)

/** Returns the name of the declaration and the code of each example in a file. */
function examplesOf(file) {
  const text = readFileSync(new URL(file, folder), 'utf8')
  const blocks = text.matchAll(/\/\*\*((?:(?!\*\/)[^])*)\*\/\s*export (?:class|function) (\w+)/g)
  return [...blocks]
    .filter(([, comment]) => comment.includes('@example'))
    .map(([, comment, name]) => {
      const [, code] = comment.split('@example')
      return { name, lines: code.split('\n').map((line) => line.replace(/^ *\* ?/, '')) }
    })
}

/** Makes an assertion of a line that states its value. */
const checked = (line) => line.replace(/^(.+?) \/\/ => (.+)$/, 'assert.deepEqual($1, $2)')

const examples = readdirSync(folder).flatMap(examplesOf)

test('the examples were found', () => {
  const names = examples.map(({ name }) => name)
  const expected = [
    'MemoryManager', 'MemoryPool', 'ModelResidency', 'SimulatedNPU', 'estimateModelMemory', 'explainError', 'planArena',
    'planModels',
  ]
  assert.deepEqual(names.sort(), expected)
})

for (const { name, lines } of examples) {
  test(`the example of ${name} runs, and its values are true`, () => {
    assert.ok(
      lines.some((line) => line.includes('// => ')),
      'an example states a value',
    )
    const run = new Function('assert', ...Object.keys(memory), lines.map(checked).join('\n'))
    run(assert, ...Object.values(memory))
  })
}

test('a false value would fail', () => {
  assert.throws(() => new Function('assert', checked('1 + 1 // => 3'))(assert), assert.AssertionError)
})
