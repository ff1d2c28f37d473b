/**
 * Acts as a program that loads a model: takes the bytes of its first argument, says so as librkllmrt does, and waits.
 * With `child` a process of its own takes them; with `fail` it ends with an error instead; with `end` it ends well.
 */

import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const [bytes, what] = process.argv.slice(2)
console.log(`process ${process.pid}`)
console.log('I rkllm: rkllm-runtime version: 1.2.3, rknpu driver version: 0.9.8, platform: RK3588')
if (what === 'fail') {
  console.error('E RKNN: failed to malloc npu memory, size: 4022272000, flags: 0x2')
  process.exit(3)
}
if (what === 'child') {
  const flags = process.versions.deno === undefined ? [] : ['run', '--allow-all']
  spawn(process.execPath, [...flags, fileURLToPath(import.meta.url), bytes], { stdio: 'inherit' })
} else {
  const held = Buffer.alloc(Number(bytes), 1)
  console.log('rkllm init success')
  if (what === 'end') setTimeout(() => process.exit(0), 1500)
  // Reads its input, as a program that waits for a prompt.
  else process.stdin.on('data', () => console.log(held.length))
}
