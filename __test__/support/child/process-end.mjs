/** Ends the process with live buffers. argv names the way. */

import { randomFill } from 'node:crypto'

import { open } from './open.mjs'

const manager = open()
globalThis.kept = Array.from({ length: 50 }, (_, i) => {
  const bytes = new Uint8Array(i % 2 ? manager.allocateNPUMemory(65536) : manager.allocateSystemMemory(65536)).fill(1)
  randomFill(bytes, () => {})
  return bytes
})
switch (process.argv[2]) {
  case 'exit':
    process.exit(0)
    break
  case 'uncaught':
    throw new Error('on purpose')
  case 'dispose-late':
    process.on('exit', () => manager.dispose())
}
