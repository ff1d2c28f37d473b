/** Uses every descriptor, and then chapters of the package that are not loaded yet. */

import { closeSync, openSync } from 'node:fs'
import { createRequire } from 'node:module'

import { isLimited } from './limited.mjs'

const require = createRequire(import.meta.url)

if (isLimited(import.meta.url, 128)) {
  const memory = require('../../../index.js')
  const manager = new memory.MemoryManager({ backend: 'simulated' })
  const buffer = manager.allocateNPUMemory(4096)
  const fds = []
  try {
    for (;;) fds.push(openSync('/dev/null'))
  } catch (error) {
    process.exitCode = error.code === 'EMFILE' ? 0 : 1
  }
  let refusal
  try {
    manager.allocateNPUMemory(4096, { dedicated: true })
  } catch (error) {
    refusal = error
  }
  const outcomes = {}
  const codeOf = (act) => {
    try {
      return act()
    } catch ({ code }) {
      return code
    }
  }
  const uses = {
    explainError: () => memory.explainError(refusal.message).code,
    getMemoryUsage: () => manager.getMemoryUsage().npu.used,
    metrics: () => manager.metrics().endsWith('# EOF\n'),
    takeSnapshot: () => manager.takeSnapshot().buffers.length,
    getMemoryProfile: () => manager.getMemoryProfile().enabled,
    MemoryPool: () => memory.MemoryPool.name,
    estimateModelMemory: () => codeOf(() => memory.estimateModelMemory({ path: process.execPath, contextLength: 1 })),
  }
  for (const [name, use] of Object.entries(uses)) {
    try {
      outcomes[name] = use()
    } catch (error) {
      outcomes[name] = `${error.name} ${error.code} ${error.message}`
    }
  }
  for (const fd of fds) closeSync(fd)
  manager.deallocate(buffer)
  manager.dispose()
  console.log(JSON.stringify(outcomes))
}
