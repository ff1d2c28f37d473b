// Measures the library's overhead on a dedicated 1 MiB buffer: the median of allocate + free, against the same calls
// from C (bare.c). The C program runs before and after: a change of the machine's speed shows as a spread between the
// two runs.
import { execFileSync } from 'node:child_process'
import { MemoryManager, backend, fail, settled } from './driver.mjs'

const GOAL = 1.10
const ROUNDS = 120
const WARM = 20
const BYTES = 1 << 20

const bare = () => Number(execFileSync('/host/bare', { encoding: 'utf8' }))
const median = list => list.sort((a, b) => a - b)[list.length >> 1]

function library() {
  const manager = new MemoryManager({ backend })
  const took = []
  for (let i = -WARM; i < ROUNDS; i++) {
    const start = process.hrtime.bigint()
    const buffer = manager.allocateNPUMemory(BYTES, { dedicated: true })
    manager.deallocateNPUMemory(buffer)
    if (i >= 0) took.push(Number(process.hrtime.bigint() - start))
  }
  manager.dispose()
  return median(took)
}

const c = [], js = []
for (let i = 0; i < 3; i++) {
  c.push(bare())
  js.push(library())
}
c.push(bare())
const ratio = median(js) / median(c)
const us = list => list.map(ns => (ns / 1000).toFixed(0)).join(' ')
const left = await settled()
if (left) fail(left)
console.log(`C ${us(c)} µs, library ${us(js)} µs, ratio ${ratio.toFixed(3)} (goal: ${GOAL.toFixed(2)})`)
// Reported only: on a busy machine a ratio of times is not a test.
