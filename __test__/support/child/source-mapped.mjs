/** Allocates in a function that a source map places at line 7 of original.ts. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { MemoryManager } from '../../../index.js'

const directory = mkdtempSync(join(tmpdir(), 'rkllm-map-'))
const map = { version: 3, sources: ['original.ts'], names: [], mappings: ';AAMA', file: 'made.js' }
writeFileSync(
  join(directory, 'made.js'),
  `exports.allocate = (manager) =>\nmanager.allocateSystemMemory(100)\n` +
    `//# sourceMappingURL=data:application/json;base64,${btoa(JSON.stringify(map))}\n`,
)
const manager = new MemoryManager({ backend: 'simulated', profiling: { sampleInterval: 1 } })
const buffer = createRequire(import.meta.url)(join(directory, 'made.js')).allocate(manager)
console.log(JSON.stringify({ stack: manager.describe(buffer).stack }))
rmSync(directory, { recursive: true })
