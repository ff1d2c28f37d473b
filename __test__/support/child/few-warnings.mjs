/** Exhausts 256 descriptors and prints the warnings. */

import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'
import { isLimited } from './limited.mjs'

if (isLimited(import.meta.url, 256)) {
  const manager = new MemoryManager({ backend: 'simulated', slabs: { threshold: 0 } })
  const warnings = []
  manager.on('warning', (warning) => warnings.push(warning))
  const buffers = []
  let code
  try {
    for (;;) buffers.push(manager.allocateNPUMemory(4096))
  } catch (error) {
    code = error.code
  }
  for (const buffer of buffers) manager.deallocate(buffer)
  await nextTurn()
  manager.dispose()
  const [scopes, ratios] = [warnings.map(({ scope }) => scope), warnings.map(({ ratio }) => ratio)]
  console.log(JSON.stringify({ code, scopes, ratios, message: warnings[0]?.message }))
}
