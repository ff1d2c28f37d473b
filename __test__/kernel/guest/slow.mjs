// Each call waits for another process to release the domain: first slowly, then until it times out. The library may not
// crash or lose memory.
import { MemoryError, MemoryManager, backend, counters, fail, set, settled } from './driver.mjs'

const SWITCH_MS = 40

set('switch_ms', SWITCH_MS)
const manager = new MemoryManager({ backend })
const began = performance.now()
const buffer = manager.allocateNPUMemory(65536, { dedicated: true })
if (performance.now() - began < SWITCH_MS) fail('the driver did not switch')
manager.syncToDevice(buffer)

let freeing = 0
for (let i = 0; i < 10; i++) {
  const short = manager.allocateNPUMemory(4096, { dedicated: true })
  const start = performance.now()
  manager.deallocateNPUMemory(short)
  freeing += (performance.now() - start) / 10
}

// The asynchronous verbs free on a separate thread: a slow driver does not slow down JavaScript, and the event loop
// turns while an allocation waits.
if (manager.allocateNPUMemoryAsync) {
  if (freeing > SWITCH_MS / 2) fail(`a free takes ${freeing.toFixed(0)} ms of JavaScript's time`)
  // Long enough for some turns on a machine with other work.
  set('switch_ms', 10 * SWITCH_MS)
  let turns = 0
  const timer = setInterval(() => turns++, 5)
  manager.deallocateNPUMemory(await manager.allocateNPUMemoryAsync(65536, { dedicated: true }))
  clearInterval(timer)
  set('switch_ms', SWITCH_MS)
  if (turns < 3) fail(`the event loop turned ${turns} times during an asynchronous allocation`)
}

set('switch_timeout', 1)
for (const call of [() => manager.allocateNPUMemory(65536, { dedicated: true }), () => manager.syncToDevice(buffer)]) {
  try {
    call()
    fail('a call that timed out in the driver succeeded')
  } catch (error) {
    if (!(error instanceof MemoryError)) fail(`not a MemoryError: ${error}`)
  }
}
manager.deallocateNPUMemory(buffer) // The destroy fails: the manager reports it and does not retry.
manager.dispose()
set('switch_timeout', 0)
set('switch_ms', 0)
const left = await settled(10)
if (left) fail(left)
if (counters().violations) fail('violations')
console.log(
  `ok: ${counters().total_switches} switches, a free takes ${freeing.toFixed(1)} ms at ${SWITCH_MS} ms a switch`,
)
