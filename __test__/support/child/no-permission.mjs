/** Opens a device node without permission, and prints the error. */

import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { MemoryManager } from '../../../index.js'

const NOBODY = 65534

const directory = mkdtempSync(join(tmpdir(), 'rkllm-'))
chmodSync(directory, 0o755)
const node = join(directory, 'rknpu')
let failure
try {
  // A misc device that the kernel does not have: open() fails with EACCES before it looks.
  execFileSync('mknod', ['-m', '000', node, 'c', '10', '4000'])
  process.setegid(NOBODY)
  process.seteuid(NOBODY)
  new MemoryManager({ backend: 'rknpu-heap', device: node })
} catch (error) {
  failure = error
} finally {
  process.seteuid(0)
  rmSync(directory, { recursive: true })
}
console.log(
  JSON.stringify({ code: failure?.code, hint: failure?.hint, path: failure?.path, message: failure?.message }),
)
