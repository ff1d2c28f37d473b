/** Calls a function of a copy of the package while its chapter is missing, cut off, and back. */

import { cpSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../../', import.meta.url))
const copy = mkdtempSync(join(tmpdir(), 'rkllm-chapter-'))
for (const name of ['index.js', 'package.json', 'src/js'])
  cpSync(join(root, name), join(copy, name), { recursive: true })

const memory = createRequire(import.meta.url)(join(copy, 'index.js'))
const outcome = (use) => {
  try {
    return { result: use() }
  } catch (error) {
    const { code, message, hint } = error
    return { code, message, hint, isMemoryError: error instanceof memory.MemoryError }
  }
}
const uses = {
  function: ['explain/explain.js', () => memory.explainError('no known line')],
  class: ['pools/pool-host.js', () => memory.MemoryPool.name],
  method: ['stats/usage.js', () => new memory.MemoryManager({ backend: 'simulated' }).getNPUMemoryStats().backend],
}
const outcomes = {}
for (const [name, [file, use]] of Object.entries(uses)) {
  const path = join(copy, 'src/js', file)
  renameSync(path, `${path}.kept`)
  const missing = outcome(use)
  writeFileSync(path, 'module.exports = {')
  const cut = outcome(use)
  renameSync(`${path}.kept`, path)
  outcomes[name] = { missing, cut, back: outcome(use) }
}
rmSync(copy, { recursive: true })
console.log(JSON.stringify(outcomes))
