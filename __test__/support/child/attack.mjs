/**
 * Attacks external memory from pure JavaScript, one attack a process. Arguments: the attack, and "objects" (dedicated
 * kernel objects) or "slices". Neighbours with known bytes show stray writes. Afterwards new memory of the same sizes
 * shows late writes into freed memory. Needs --expose-gc.
 */

import assert from 'node:assert/strict'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'

import { ends } from './attack/ends.mjs'
import { language } from './attack/language.mjs'
import { moves } from './attack/moves.mjs'
import { operations } from './attack/operations.mjs'
import { check, fill, fresh, holds, manager, name, neighbours, node, refusals, SIZES } from './attack/tools.mjs'
import { openFiles } from './open.mjs'

const before = openFiles()
await { ...moves, ...operations, ...ends, ...language }[name]()
check()
for (let i = 0; i < 10; i++) {
  gc()
  await nextTurn()
}
// A late write into freed memory lands in these buffers.
const watched = SIZES.flatMap((size) => Array.from({ length: 16 }, () => fresh(size)))
watched.forEach((buffer) => fill(buffer, 0x11))
await sleep(50)
gc()
await nextTurn()
assert.ok(watched.every((buffer) => holds(buffer, 0x11)), 'a late write')
check()
;[...watched, ...neighbours].forEach((buffer) => manager.deallocate(buffer))
manager.dispose()
let left
for (let i = 0; i < 1600; i++) {
  left = openFiles().filter((file) => !before.includes(file) && /memfd|dmabuf|dri|rknpu|dma_heap/.test(file))
  if (left.length === 0) break
  gc()
  await sleep(5)
}
console.log(JSON.stringify({ refusals, left }))
if (node >= 24 && name === 'marked') process.reallyExit(0)
