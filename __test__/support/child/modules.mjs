/** Prints the package's own modules after `require`, and after a first allocation. */

import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)
const root = fileURLToPath(new URL('../../../', import.meta.url))
const own = () =>
  Object.keys(require.cache)
    .filter((path) => path.startsWith(root) && !path.startsWith(`${root}__test__/`))
    .map((path) => path.slice(root.length))

const memory = require('../../../index.js')
const required = own()
const keys = Object.keys(memory)
const manager = new memory.MemoryManager({ backend: 'simulated' })
manager.deallocate(manager.allocateNPUMemory(4096))
const allocated = own()
manager.createMemoryPool({ name: 'pool', initialSize: 4096 }).allocate(64).free()
const pooled = own()
manager.dispose()
console.log(JSON.stringify({ required, allocated, pooled, keys }))
