// The collector frees a dropped manager despite its pressure subscription, and the process ends by itself with an open
// one.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { MemoryManager } from '../../../index.js'

let dropped = new MemoryManager({ backend: 'simulated' })
dropped.on('pressure', () => {})
const weak = new WeakRef(dropped)
dropped = undefined
for (let turn = 0; turn < 50 && weak.deref() !== undefined; turn++) {
  await nextTurn()
  globalThis.gc()
}
globalThis.open = new MemoryManager({ backend: 'simulated' })
globalThis.open.on('pressure', () => {})
console.log(JSON.stringify({ collected: weak.deref() === undefined }))
