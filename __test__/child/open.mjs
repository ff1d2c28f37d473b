/** The device under test, as in helpers.mjs, but without its node:test. */

import { MemoryManager } from '../../index.js'

export function open(options = {}) {
  const backend = process.env.RKLLM_TEST_BACKEND ?? 'simulated'
  return new MemoryManager({ backend, device: process.env.RKLLM_TEST_DEVICE || undefined, ...options })
}
