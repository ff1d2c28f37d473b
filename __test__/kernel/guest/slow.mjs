// Every call waits for another process to give the domain back: slow, then not at all. Nothing may be lost or crash.
import { MemoryError, MemoryManager, backend, counters, fail, set, settled } from './driver.mjs'

const SWITCH_MS = 40

set('switch_ms', SWITCH_MS)
const manager = new MemoryManager({ backend })
const began = performance.now()
const buffer = manager.allocateNPUMemory(65536, { dedicated: true })
if (performance.now() - began < SWITCH_MS) fail('the driver did not switch')
manager.syncToDevice(buffer)

// Frees are slow in the driver, not for JavaScript.
const freeing = performance.now()
for (let i = 0; i < 10; i++) manager.deallocateNPUMemory(manager.allocateNPUMemory(4096, { dedicated: true }))
const each = (performance.now() - freeing) / 10
if (each > 1.8 * SWITCH_MS) fail(`allocate + free take ${each.toFixed(0)} ms: the free waits too`)

// The loop turns while an asynchronous twin waits.
if (manager.allocateNPUMemoryAsync) {
  let turns = 0
  const timer = setInterval(() => turns++, 5)
  manager.deallocateNPUMemory(await manager.allocateNPUMemoryAsync(65536, { dedicated: true }))
  clearInterval(timer)
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
manager.deallocateNPUMemory(buffer) // its destroy fails: reported, not retried
manager.dispose()
set('switch_timeout', 0)
set('switch_ms', 0)
const left = await settled(10)
if (left) fail(left)
if (counters().violations) fail('violations')
console.log(`ok: ${counters().total_switches} switches, allocate + free ${each.toFixed(0)} ms a turn at ${SWITCH_MS} ms a switch`)
