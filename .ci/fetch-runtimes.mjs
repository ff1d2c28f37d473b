// The runtimes that are supported, each from its npm package.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'rkllmjs-memory', 'runtimes')
const { arch } = process

const node = (major) => ({
  spec: `node-linux-${arch}@${major}`,
  binary: 'bin/node',
  test: (file) => ['--test', '--test-reporter=tap', file],
  run: (file) => ['--expose-gc', file],
})

export const runtimes = {
  node22: node(22),
  node24: node(24),
  node26: node(26),
  bun: {
    spec: `@oven/bun-linux-${arch === 'arm64' ? 'aarch64' : arch}@1`,
    binary: 'bin/bun',
    // Its timeout of 5 s a test is for others.
    test: (file) => ['test', '--timeout', '120000', `./${file}`],
    run: (file) => ['--expose-gc', file],
  },
  deno: {
    spec: `@deno/linux-${arch}-glibc@2`,
    binary: 'deno',
    test: (file) => ['test', '--allow-all', '--no-check', file],
    run: (file) => ['run', '--allow-all', '--v8-flags=--expose-gc', file],
  },
}

/** The binary of a runtime, fetched once. */
export function fetched(name) {
  const { spec, binary } = runtimes[name]
  const folder = join(cache, `${name}-${arch}`)
  const path = join(folder, 'package', binary)
  if (existsSync(path)) return path
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const packed = execFileSync('npm', ['pack', '--silent', spec], { cwd: folder, encoding: 'utf8' })
    .trim()
    .split('\n')
    .at(-1)
  execFileSync('tar', ['xzf', packed], { cwd: folder })
  rmSync(join(folder, packed))
  return path
}
