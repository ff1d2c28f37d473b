/** Allocates and drops without yielding until an allocation fails; then yields and retries. Needs --expose-gc. */

import { setImmediate as nextTurn } from 'node:timers/promises'

import { open } from './open.mjs'

const SIZE = 64 * 1024 * 1024

const manager = open()
let allocated = 0
let failure
try {
  for (;;) {
    new Uint8Array(manager.allocateNPUMemory(SIZE))[0] = 1
    allocated++
    gc()
  }
} catch (error) {
  failure = error
}

let afterTurning
for (let i = 0; i < 200 && afterTurning !== 'allocated'; i++) {
  gc()
  await nextTurn()
  try {
    manager.deallocate(manager.allocateNPUMemory(SIZE))
    afterTurning = 'allocated'
  } catch (error) {
    afterTurning = error.code
  }
}
console.log(
  JSON.stringify({ allocated, code: failure.code, hint: failure.hint, message: failure.message, afterTurning }),
)
