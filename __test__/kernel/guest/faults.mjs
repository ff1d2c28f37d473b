// Fails each kind of driver call once, at its first, second, ... turn, with each errno. The program may see only
// MemoryErrors, and no kernel object may outlive the manager.
import { closeSync } from 'node:fs'
import { MemoryError, MemoryManager, backend, counters, fail, set, settled } from './driver.mjs'

const KINDS = ['open', 'action', 'create', 'map', 'mmap', 'sync', 'export', 'import', 'destroy']
const ERRNOS = { EIO: 5, ENOMEM: 12, EFAULT: 14, EINVAL: 22, EMFILE: 24, EINTR: 4 }
const TURNS = 40

function work() {
  const manager = new MemoryManager({ backend })
  const errors = []
  const attempt = f => {
    try {
      return f()
    } catch (error) {
      errors.push(error)
    }
  }
  const buffers = [{ dedicated: true }, { dedicated: false }, { dedicated: true, cacheable: false }]
    .map(options => attempt(() => manager.allocateNPUMemory(20000, options))).filter(Boolean)
  for (const buffer of buffers) {
    const bytes = new Uint8Array(buffer)
    if (bytes.some(byte => byte !== 0)) fail('not zeroed')
    bytes.fill(0x5a)
    attempt(() => manager.syncToDevice(buffer))
    attempt(() => manager.syncFromDevice(buffer))
  }
  const out = buffers[0] && attempt(() => manager.exportDmaBuf(buffers[0]))
  const back = out && attempt(() => manager.importDmaBuf(out.fd))
  if (back) {
    if (new Uint8Array(back)[100] !== 0x5a) fail('an import shows other bytes')
    attempt(() => manager.deallocateNPUMemory(back))
  }
  if (out) closeSync(out.fd)
  for (const buffer of buffers) attempt(() => manager.deallocateNPUMemory(buffer))
  attempt(() => manager.dispose())
  return errors
}

let runs = 0
const seen = new Map()
for (const kind of KINDS) {
  for (const [name, errno] of Object.entries(ERRNOS)) {
    for (let turn = 1; turn <= TURNS; turn++) {
      const before = counters().total_injected
      set('fault', `${kind}:${turn}:${errno}`)
      let errors
      try {
        errors = work()
      } catch (error) {
        errors = [error]
      }
      const where = `${kind} failing with ${name} at turn ${turn}`
      const left = await settled()
      set('fault', 'off')
      if (left) fail(`${where}: ${left}`)
      if (counters().violations) fail(`${where}: violations`)
      runs++
      if (counters().total_injected === before) break // The program makes fewer calls of this kind.
      for (const error of errors) {
        if (!(error instanceof MemoryError) || !/^ERR_/.test(error.code)) fail(`${where}: ${error?.stack ?? error}`)
        seen.set(error.code, (seen.get(error.code) ?? 0) + 1)
      }
    }
  }
}
if (work().length) fail('an error without an injected failure')
console.log(
  `ok: ${runs} runs, ${counters().total_injected} calls failed; ` +
    `${[...seen].map(([code, n]) => `${code} ${n}`).join(', ')}`,
)
