/**
 * Attacks of pure JavaScript on external memory (`facts` in support/child/attack.mjs), each in its own process: no
 * crash, no hang, no late write into another owner's bytes, no open handle.
 */

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test from 'node:test'

import { inPiece, needsOwnKernel, runChild, runtime } from '../../support/helpers.mjs'

const source = readFileSync(new URL('../../support/child/attack.mjs', import.meta.url), 'utf8')
const [, table] = /\nconst attacks = \{\n([\s\S]*?)\n\}\n/.exec(source)
const names = [...table.matchAll(/^ {2}(?:async )?(\w+)\(\) \{$/gm)].map(([, name]) => name)

test('the table of attacks was found', () => assert.ok(names.length >= 20, names.join()))

for (const [name, how] of inPiece(names.flatMap((name) => ['objects', 'slices'].map((how) => [name, how])))) {
  // QEMU refuses an mprotect that Bun needs for resizable ArrayBuffers.
  const skip = runtime === 'bun' && name === 'sharedBuffers' && needsOwnKernel
  test(`${name}, ${how}`, { skip }, () => {
    const { result } = runChild('attack.mjs', { args: [name, how], flags: ['--expose-gc'] })
    assert.deepEqual(result.left, [])
  })
}
