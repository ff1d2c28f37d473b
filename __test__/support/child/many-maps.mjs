/** Makes most of the mappings that a process may have, and prints the warnings. */

import { readFileSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'

const most = Number(readFileSync('/proc/sys/vm/max_map_count', 'utf8'))
const PAGE = 4096
/** Allocations between two counts at most (src/js/limits/process-limits.js). */
const UNTIL_COUNTED = 4096

const manager = new MemoryManager({ backend: 'simulated' })
const warnings = []
manager.on('warning', (warning) => warnings.push(warning))

// The kernel merges adjacent mappings; freeing every second one splits them.
const kept = []
const between = []
for (let i = 0; i < most; i++) {
  kept.push(manager.allocateSystemMemory(2 * PAGE))
  between.push(manager.allocateSystemMemory(PAGE))
}
const told = []
for (const share of [0.6, 0.75, 0.92]) {
  while (manager.getMemoryUsage().process.maps < most * share && between.length > 0) {
    for (const buffer of between.splice(-500)) manager.deallocate(buffer)
  }
  for (let i = 0; i < UNTIL_COUNTED; i++) kept.push(manager.allocateSystemMemory(2 * PAGE))
  await nextTurn()
  told.push(warnings.splice(0).map(({ scope, used, max, ratio, message }) => ({ scope, used, max, ratio, message })))
}
manager.dispose()
console.log(JSON.stringify({ told }))
