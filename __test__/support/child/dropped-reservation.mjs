/** Drops a reservation and collects garbage: the manager holds it. */

import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'

const [backend, device] = process.argv.slice(2)
const manager = new MemoryManager({ backend, device: device || undefined })
;(() => void manager.reserve(4096, { tag: 'weights' }))()
for (let i = 0; i < 50; i++) {
  globalThis.gc?.()
  await nextTurn()
}
console.log(JSON.stringify({ reservations: manager.getMemoryUsage().reservations }))
