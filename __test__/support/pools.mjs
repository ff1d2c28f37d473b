/** Helpers of the suites of pools. */

import assert from 'node:assert/strict'
import { inspect } from 'node:util'

import { MiB, open } from './helpers.mjs'

export const KINDS = ['npu', 'system']

/** Creates a manager with a pool, by default of 1 MiB. */
export function pooled(t, options = {}, managerOptions) {
  const manager = open(t, managerOptions)
  const pool = manager.createMemoryPool({ name: 'p', initialSize: MiB, ...options })
  return { manager, pool }
}

export const all = (buffer, byte) => new Uint8Array(buffer).every((found) => found === byte)
export const fill = (buffer, byte) => new Uint8Array(buffer).fill(byte)

/** Asserts the invariants of a pool's figures. */
export function sane(stats, { fixed = false } = {}) {
  assert.ok(stats.reserved >= stats.allocated && stats.allocated >= stats.requested, inspect(stats))
  assert.equal(stats.free, stats.reserved - stats.allocated)
  assert.ok(stats.largestFree <= stats.free && stats.peakAllocated >= stats.allocated)
  const expected = fixed || stats.free === 0 ? 0 : 1 - stats.largestFree / stats.free
  assert.ok(Math.abs(stats.fragmentation - expected) < 1e-12)
  return stats
}
