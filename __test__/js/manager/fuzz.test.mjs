/**
 * Random programs over the whole API. A failing seed fails again: `node --expose-gc __test__/support/child/fuzz.mjs
 * SEED STEPS`.
 */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { runChild, simulated } from '../../support/helpers.mjs'

// Real backends run under an emulator, ten times slower.
const STEPS = simulated ? 3000 : 500

const OPTIONS = [
  {},
  { slabs: { threshold: 0 } },
  { slabs: { threshold: 65536, size: 1 << 20 } },
  { debug: { delayReuse: 20 } },
]

for (const [seed, options] of OPTIONS.entries()) {
  const title = `seed ${seed}, ${JSON.stringify(options)}`
  test(`${title}: no byte, buffer or descriptor is lost in ${STEPS} random steps`, () => {
    const { result } = runChild('fuzz.mjs', {
      args: [String(seed), String(STEPS), JSON.stringify(options)],
      flags: ['--expose-gc'],
    })
    assert.deepEqual(result, { steps: STEPS, left: [], fresh: [0, 0, 0] })
  })
}
