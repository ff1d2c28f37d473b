/**
 * Calls what needs a thread when the system starts none. Root sets the limit for another user, because it does not
 * bind root, and becomes that user once the runtime has its own threads.
 */

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { DmaBufInbox, MemoryManager } from '../../../index.js'

const NOBODY = 65_534

if (process.argv[2] !== 'limited') {
  const args = ['--nproc=1', process.execPath, ...process.execArgv, fileURLToPath(import.meta.url), 'limited']
  // That user may not remove it.
  const folder = mkdtempSync(join(tmpdir(), 'rkllm-no-threads-'))
  process.stdout.write(execFileSync('prlimit', [...args, folder], { encoding: 'utf8' }))
  rmSync(folder, { recursive: true })
} else {
  const manager = new MemoryManager({ backend: 'simulated', simulated: { latencyMs: 1 }, slabs: { threshold: 0 } })
  const buffers = Array.from({ length: 3 }, () => manager.allocateNPUMemory(1 << 20))
  const inbox = new DmaBufInbox(join(process.argv[3], 'inbox'))
  process.setuid(NOBODY)
  const outcome = (promise) => promise.then(() => 'done', ({ code, syscall, hint }) => `${code} ${syscall} ${!!hint}`)
  const calls = {
    sync: await outcome(manager.syncToDeviceAsync(buffers[0])),
    allocate: await outcome(manager.allocateNPUMemoryAsync(1 << 20)),
    receive: await outcome(inbox.receive()),
  }
  for (const buffer of buffers) manager.deallocate(buffer)
  const { pendingFree } = manager.getNPUMemoryStats()
  // A call that waits for frees makes them itself.
  manager.optimizeMemory()
  const after = manager.getNPUMemoryStats().pendingFree
  manager.dispose()
  console.log(JSON.stringify({ ...calls, pendingFree, after }))
}
