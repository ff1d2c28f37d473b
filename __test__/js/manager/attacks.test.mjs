/**
 * Attacks of pure JavaScript on external memory (support/child/attack/), each in its own process: no
 * crash, no hang, no late write into another owner's bytes, no open handle.
 */

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test from 'node:test'

import { inPiece, needsOwnKernel, runChild, runtime } from '../../support/helpers.mjs'

/** Names of the attacks in one file. The file is not imported, because that opens a manager. */
const namesIn = (chapter) => {
  const source = readFileSync(new URL(`../../support/child/attack/${chapter}.mjs`, import.meta.url), 'utf8')
  const [, table] = /\nexport const \w+ = \{\n([\s\S]*?)\n\}\n/.exec(source)
  return [...table.matchAll(/^ {2}(?:async )?(\w+)\(\) \{$/gm)].map(([, name]) => name)
}
const names = ['moves', 'operations', 'ends', 'language'].flatMap(namesIn)

test('the table of attacks was found', () => assert.ok(names.length >= 20, names.join()))

for (const [name, how] of inPiece(names.flatMap((name) => ['objects', 'slices'].map((how) => [name, how])))) {
  // QEMU refuses an mprotect that Bun needs for resizable ArrayBuffers.
  const skip = runtime === 'bun' && name === 'sharedBuffers' && needsOwnKernel
  test(`${name}, ${how}`, { skip }, () => {
    const { result } = runChild('attack.mjs', { args: [name, how], flags: ['--expose-gc'] })
    assert.deepEqual(result.left, [])
  })
}
