/** Exhausts 256 descriptors and prints the warnings. The shell sets the limit, as for few-descriptors.mjs. */

import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'

if (process.argv[2] !== 'limited') {
  const self = fileURLToPath(import.meta.url)
  const command = `ulimit -n 256 && exec "$0" "$@" limited`
  const run = process.versions.deno ? ['run', '-A', self] : [self]
  process.stdout.write(execFileSync('/bin/sh', ['-c', command, process.execPath, ...run], { encoding: 'utf8' }))
} else {
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
