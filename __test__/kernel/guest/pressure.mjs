// A real kernel reports memory pressure: this process's cgroup exceeds memory.high, and the kernel stalls its tasks.
// The manager frees the empty chunks of its pool and reports the event; live blocks keep their bytes.
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { MemoryManager, backend, fail, settled } from './driver.mjs'

const MiB = 1 << 20
const group = '/sys/fs/cgroup/short'
writeFileSync('/sys/fs/cgroup/cgroup.subtree_control', '+memory')
mkdirSync(group)
writeFileSync(`${group}/cgroup.procs`, String(process.pid))

const manager = new MemoryManager({ backend, cleanup: { defragmentAbove: null } })
const pool = manager.createMemoryPool({ name: 'kv', initialSize: MiB, chunkSize: MiB, maxSize: 8 * MiB })
const blocks = Array.from({ length: 64 }, (_, at) => {
  const block = pool.allocate(MiB / 16, { movable: true })
  new Uint8Array(block.buffer).fill(at)
  return block
})
const kept = blocks.filter((block, at) => at % 2 === 0 || (block.free(), false))
const before = pool.stats().reserved

const current = Number(readFileSync(`${group}/memory.current`, 'utf8'))
writeFileSync(`${group}/memory.high`, String(current + 64 * MiB))
writeFileSync(`${group}/memory.max`, String(current + 400 * MiB))
// Children share the cgroup. This one allocates 256 MiB above memory.high.
const greedy = spawn(process.execPath, [
  '-e',
  'const all = []; while (all.length < 320) all.push(Buffer.alloc(1 << 20, 1))',
])
const ended = once(greedy, 'exit')
const timer = setTimeout(() => fail('the manager reported no pressure'), 60_000)
const [{ level, available, released }] = await once(manager, 'pressure')
clearTimeout(timer)
greedy.kill('SIGKILL')
await ended
writeFileSync(`${group}/memory.high`, 'max')

const after = pool.stats().reserved
if (before !== 4 * MiB || after !== 2 * MiB || released < 2 * MiB)
  fail(`${before} bytes became ${after}, ${released} released`)
// The child exceeds memory.high, which counts like memory.max: nothing or little is left.
if (!(available >= 0 && available <= 64 * MiB)) fail(`available: ${available}`)
kept.forEach((block, at) => {
  if (!new Uint8Array(block.buffer).every(byte => byte === at * 2)) fail(`block ${at} lost its bytes`)
})
manager.dispose()
const left = await settled()
if (left) fail(left)
const events = readFileSync(`${group}/memory.events`, 'utf8').trim().replaceAll('\n', ', ')
console.log(
  `pressure "${level}", ${(available / MiB) | 0} MiB available, ${(released / MiB) | 0} MiB given back; ${events}`,
)
process.exit(0)
