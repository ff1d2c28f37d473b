/** Globals of the runtime that fake timers replace, or that a test environment lacks. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { notOn, runChild } from '../../support/helpers.mjs'

const expected = {
  fits: 1000, 'at the limit': 'ERR_MEMORY_LIMIT', sync: 'resolved', 'a warning': 'resolved', html: 'resolved',
  json: 'resolved', csv: 'resolved', 'pb.gz': 'resolved', 'trace.json': 'resolved', prom: 'resolved',
  limits: 4 * 2 ** 20, fast: true, prompt: 'bigint', date: true,
}
const needsNode = notOn({ bun: 'its own modules use the globals', deno: 'its own modules use the globals' })

for (const [way, title] of [
  ['fake', 'under the fake timers of node:test, and with the ticks that sinon fakes'],
  ['missing', 'without the globals that jsdom lacks'],
]) {
  test(`everything works ${title}`, { skip: needsNode }, () => {
    const { result } = runChild('globals.mjs', { args: [way], flags: ['--no-warnings'] })
    assert.deepEqual(result, expected)
  })
}
