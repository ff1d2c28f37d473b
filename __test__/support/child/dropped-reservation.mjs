/** Drops a reservation: the collector releases it, and the process emits a warning. */

import { setImmediate as nextTurn } from 'node:timers/promises'

import { MemoryManager } from '../../../index.js'

const [backend, device] = process.argv.slice(2)
const codes = []
process.on('warning', ({ code }) => codes.push(code))
const manager = new MemoryManager({ backend, device: device || undefined })
;(() => void manager.reserve(4096, { tag: 'weights' }))()
for (let i = 0; i < 200 && codes.length === 0; i++) {
  globalThis.gc?.()
  await nextTurn()
}
console.log(JSON.stringify({ reservations: manager.getMemoryUsage().reservations.length, codes }))
